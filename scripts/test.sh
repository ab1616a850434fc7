#!/usr/bin/env bash
# Makes the environment if needed, then runs every check of the project: lint, format, types,
# layers, dead code, tests. Extra arguments go to pytest, e.g.  bash scripts/test.sh -k unet
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/_environment.sh test

export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
step() { echo "--- $*"; "$@"; }
step ruff check .
step ruff format --check .
step mypy
step lint-imports --no-cache
step vulture
# worksteal: neighbours, which share runs, go to one process, and what is left is shared out at the end
step pytest -n "${TEST_PROCESSES:-2}" --dist worksteal --durations=10 "$@"
