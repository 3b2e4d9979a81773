#!/usr/bin/env bash
# Sets everything up, then runs the tests: bash scripts/test.sh [arguments of pytest], by default all of them.
set -euo pipefail
# shellcheck source=scripts/_environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"

set_up test
cd "$REPO"
# Two processes with a thread each: the networks of the tests are too small for more threads.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$PYTHON" -m pytest -n 2 --dist loadfile "$@"
