#!/usr/bin/env bash
# Trains and tests the family's records on Omniglot within 10 minutes of one GPU, in one command:
#
#     experiments/gpu_records.sh [--root DIR_OF_OMNIGLOT] [--out FOLDER] [--minutes 10] [--quick]
#
# Each piece is recorded as it ends; the same command resumes where it was stopped. --quick runs all of it on a CPU to
# its end, on budgets that teach nothing; see experiments/gpu_records.py.
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/gpu_records.py" "$@"
