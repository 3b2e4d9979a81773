#!/usr/bin/env bash
# Sets everything up, then runs all checks but the tests: bash scripts/lint.sh. Fails if one of them did.
set -euo pipefail
# shellcheck source=scripts/_environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"

# With the packages of the tests: what mypy finds depends on which of the optional packages are there.
set_up test,lint,docs
cd "$REPO"
FAILED=''

# check NAME COMMAND...
check() {
    printf '== %s\n' "$1"
    "${@:2}" || FAILED="$FAILED, $1"
}

check 'ruff check' "$PYTHON" -m ruff check .
check 'ruff format' "$PYTHON" -m ruff format --check .
check codespell "$PYTHON" -m codespell_lib rsr_basicsr tests scripts docs options setup.py ./*.md
check mypy "$PYTHON" -m mypy
check 'API reference' env NO_MKDOCS_2_WARNING=1 "$PYTHON" -m mkdocs build --strict --quiet
[ -z "$FAILED" ] || say "Failed: ${FAILED#, }."
[ -z "$FAILED" ]
