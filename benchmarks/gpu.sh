#!/usr/bin/env bash
# All that is to be known of metasgd on a GPU, in one command of at most 8 minutes:
#
#     benchmarks/gpu.sh [--root DIR_OF_OMNIGLOT] [--out FOLDER] [--device cuda|cpu] [--quick]
#
# It writes a record of each part to the folder and ends with PASS and FAIL lines; see benchmarks/gpu.py.
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/gpu.py" "$@"
