#!/usr/bin/env bash
# Make every table of docs/results.md: bash scripts/make_results.sh BSDS500 BSD100 CITY100 REALSRSET [OUT]
#
# BSDS500: photos to train on. BSD100: photos to measure on. CITY100: real pairs, in HR and LRx4. REALSRSET: real images.
# Trains the baselines and the recipe with other seeds, runs three benchmarks on the shipped weights and those, and prints
# the tables, which are OUT/tables.md (default OUT: results). What is there already is kept; start it again to go on.
# Set beforehand if you like: PYTHON (python, with this package), WEIGHTS and LPIPS (files of realesr-general-x4v3 and of
# the network of LPIPS, instead of fetching them), PRECISION (bf16; fp32 where the CPU has none), JOBS (2).
set -euo pipefail

[ $# -ge 4 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
REPO="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
TRAIN="$(realpath -- "$1")" BSD100="$(realpath -- "$2")" CITY100="$(realpath -- "$3")" REALSRSET="$(realpath -- "$4")"
OUT="${5:-results}" PYTHON="${PYTHON:-python}" PRECISION="${PRECISION:-bf16}" JOBS="${JOBS:-2}"
mkdir -p -- "$OUT"
OUT="$(realpath -- "$OUT")"
export PYTHONPATH="$REPO${PYTHONPATH:+:$PYTHONPATH}"
[ -n "${WEIGHTS:-}" ] || WEIGHTS="$("$PYTHON" -c 'from rsr_basicsr.weights.official import fetch; print(fetch("realesr-general-x4v3"))')"
DEFENDED="$REPO/rsr_basicsr/weights/shipped/defended-general-x4v3.pth"

train() { # NAMES..., then the options of train_baselines.py
    "$PYTHON" "$REPO/scripts/train_baselines.py" realesr-general-x4v3 "$TRAIN" --weights "$WEIGHTS" --degraded 2 \
        --precision "$PRECISION" --jobs "$JOBS" "$@"
}
train -o "$OUT" --iterations 1500 --only plain adversarial castillo
train -o "$OUT" --iterations 1500 --seed 3 --only spectrum
train -o "$OUT/half" --iterations 200 --seed 4 --only spectrum --set train:pixel_opt:spectrum_weight=0.5

checkpoint() { echo "$1/experiments/$2_realesr-general-x4v3$3/models/net_g_latest.pth"; }
backbone() { "$PYTHON" "$REPO/scripts/ship_weights.py" "$1" "${@:2}" -o "$OUT/$1.pth"; }
for name in plain adversarial castillo; do backbone "$name" "$(checkpoint "$OUT" "$name" '')"; done
backbone second "$(checkpoint "$OUT" spectrum _seed3)" "$(checkpoint "$OUT/half" spectrum _seed4)"

benchmark() { # NAME FOLDER [VALUES...]
    local values=("datasets:BSD100:dataroot_gt=$BSD100" "${@:3}")
    [ -z "${LPIPS:-}" ] || values+=("metrics:lpips:backbone=$LPIPS" "metrics:lpips_stability:backbone=$LPIPS")
    "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node="$JOBS" -m rsr_basicsr.cli benchmark \
        -opt "$REPO/options/benchmark/$1_general_x4v3.yml" -o "$OUT/$2" --launcher pytorch --force_yml "${values[@]}"
}
lpips_of() { for name in "$@"; do [ -z "${LPIPS:-}" ] || echo "attacks:$name:objective:backbone=$LPIPS"; done; }
files() { for name in "$@"; do echo "networks:$name:weights=$OUT/$name.pth"; done; }
known() { for name in "$@"; do echo "networks:$name:weights=$DEFENDED"; done; }
mapfile -t main < <(lpips_of pgd_lpips; files plain adversarial castillo second; known defended)
main+=("networks:released:weights=$WEIGHTS")
benchmark results benchmark "${main[@]}"
benchmark results degraded "${main[@]}" datasets:BSD100:type=DegradedImageDataset datasets:BSD100:num_images=10 \
    plane= 'eps=[8]'
benchmark results eps4 "${main[@]}" datasets:BSD100:num_images=10 plane= 'eps=[4]'
mapfile -t values < <(lpips_of lpips30 lpips100 lpips_apgd; known defended)
benchmark results_attacks attacks "${values[@]}" "networks:released:weights=$WEIGHTS" \
    "attacks:transfer:source:weights=$WEIGHTS"
mapfile -t values < <(lpips_of lpips; known no_masks masks gate soft)
benchmark results_gate gate "${values[@]}"

{
    "$PYTHON" "$REPO/scripts/results_tables.py" "$OUT"/{benchmark,degraded,eps4,attacks,gate}
    "$PYTHON" "$REPO/scripts/measure_results.py" released="$WEIGHTS" plain="$OUT/plain.pth" \
        adversarial="$OUT/adversarial.pth" castillo="$OUT/castillo.pth" defended="$DEFENDED" \
        second="$OUT/second.pth" --photos "$BSD100" --pairs "$CITY100" --images "$REALSRSET" \
        ${LPIPS:+--backbone "$LPIPS"}
} | tee "$OUT/tables.md"
