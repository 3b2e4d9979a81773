#!/usr/bin/env bash
# One slice of a training on a borrowed GPU: bash scripts/gpu_train.sh PHOTOS WEIGHTS OUT [MINUTES [NAME]]
#
# Trains the recipe NAME of options/baselines (spectrum) in bf16 from the released WEIGHTS on PHOTOS, clean and degraded,
# for MINUTES (9). OUT/state holds the newest weights and the training state: call it again with the same OUT, on the
# same machine or another, to go on; the last call leaves OUT/net_g_latest.pth.
# Set beforehand if you like: BATCH (32), ITERATIONS (20000), WORKERS (8), PYTHON (python, with this package), WORK (a
# folder for photos and logs), WHEELS (a folder of packages to install, where they cannot be fetched).
set -euo pipefail

[ $# -ge 3 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
REPO="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
PHOTOS="$(realpath -- "$1")" WEIGHTS="$(realpath -- "$2")" MINUTES="${4:-9}" NAME="${5:-spectrum}"
mkdir -p -- "$3"
OUT="$(realpath -- "$3")"
PYTHON="${PYTHON:-python}" ITERATIONS="${ITERATIONS:-20000}"
EXPERIMENT="${NAME}_realesr-general-x4v3"
WORK="${WORK:-$REPO/.gpu_train}" # photos and logs, which need not travel
export PYTHONPATH="$REPO${PYTHONPATH:+:$PYTHONPATH}"

if [ -n "${WHEELS:-}" ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl
fi
mkdir -p "$WORK/experiments/$EXPERIMENT/models" "$WORK/experiments/$EXPERIMENT/training_states" "$OUT/state"
cp -n "$OUT"/state/net_g_*.pth "$WORK/experiments/$EXPERIMENT/models/" 2>/dev/null || true
cp -n "$OUT"/state/*.state "$WORK/experiments/$EXPERIMENT/training_states/" 2>/dev/null || true

code=0
timeout --signal=INT --kill-after=30 "${MINUTES}m" \
    "$PYTHON" "$REPO/scripts/train_baselines.py" realesr-general-x4v3 "$PHOTOS" -o "$WORK" --weights "$WEIGHTS" \
    --only "$NAME" --degraded 2 --precision bf16 --iterations "$ITERATIONS" \
    --set "datasets:train:batch_size_per_gpu=${BATCH:-32}" "datasets:train:num_worker_per_gpu=${WORKERS:-8}" || code=$?
[ "$code" -eq 0 ] || [ "$code" -eq 124 ] || exit "$code"

cp "$WORK/$EXPERIMENT.log" "$OUT/"
if [ "$code" -eq 0 ]; then
    cp "$WORK/experiments/$EXPERIMENT/models/net_g_latest.pth" "$OUT/"
    echo "all $ITERATIONS iterations are done: $OUT/net_g_latest.pth"
    exit
fi
# The newest pair of weights and training state; one that was cut off while it was written has no partner.
newest=''
for state in "$WORK/experiments/$EXPERIMENT"/training_states/*.state; do
    iteration="$(basename -- "$state" .state)"
    if [ -f "$WORK/experiments/$EXPERIMENT/models/net_g_$iteration.pth" ] && [ "$iteration" -gt "${newest:-0}" ]; then
        newest="$iteration"
    fi
done
[ -n "$newest" ] || { echo "no checkpoint within $MINUTES minutes; give it more" >&2; exit 1; }
rm -f "$OUT"/state/*
cp "$WORK/experiments/$EXPERIMENT/models/net_g_$newest.pth" "$WORK/experiments/$EXPERIMENT/training_states/$newest.state" \
    "$OUT/state/"
echo "iteration $newest of $ITERATIONS: $OUT/state"
