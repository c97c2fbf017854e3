#!/usr/bin/env bash
# Runs the tests against the oldest versions that pyproject.toml allows, and against the newest.
#
#     tests/stress/versions.sh [oldest|newest|both] [FOLDER] [PYTEST ARGUMENT…]
#
# Makes FOLDER/oldest and FOLDER/newest, virtual environments with the project in them (a new temporary folder by
# default, which is removed at the end). Without arguments for pytest the unit tests and the first commands are run.
set -euo pipefail
cd "$(dirname "$0")/../.."
which=${1:-both} folder=${2:-}
shift $(($# < 2 ? $# : 2))
if [ -z "$folder" ]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
fi
tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(tests/unit tests/cli/test_command_line.py tests/cli/test_checkpoints.py)

oldest() { # of each dependency, its lower bound: name==version
  python3 - <<'PY'
import re, tomllib
for line in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]:
    name, version = re.match(r"([\w\[\]-]+)>=([\d.]+)", line).groups()
    print(f"{name}=={version}")
PY
}

run() { # NAME REQUIREMENT…
  local name=$1
  shift
  [ -x "$folder/$name/bin/python" ] || python3 -m venv "$folder/$name"
  "$folder/$name/bin/pip" install --quiet "$@" --editable . 'pytest>=8' 'pytest-xdist>=3.6'
  "$folder/$name/bin/pip" list 2>/dev/null | grep -iE '^(torch|torchvision|lightning|jsonargparse|numpy) '
  # old versions are warned of by newer ones that they need
  "$folder/$name/bin/python" -m pytest -q -W ignore "${tests[@]}"
}

if [ "$which" != newest ]; then
  mapfile -t pins < <(oldest)
  run oldest "${pins[@]}"
fi
if [ "$which" != oldest ]; then
  run newest --upgrade --upgrade-strategy eager
fi
