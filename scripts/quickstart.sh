#!/usr/bin/env bash
# Sets everything up, then runs the quickstart: bash scripts/quickstart.sh [arguments of rsr_basicsr.quickstart]
set -euo pipefail
# shellcheck source=scripts/_environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"

set_up report,metrics
exec "$PYTHON" -m rsr_basicsr.quickstart "$@"
