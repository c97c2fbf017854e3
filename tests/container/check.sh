#!/usr/bin/env bash
# Build the image and use it as people will: help, a short fit, SIGTERM in the middle of one, and its resumption.
#   tests/container/check.sh                    with docker
#   ENGINE=podman tests/container/check.sh      with podman
# IMAGE=NAME takes an image that is there instead of building one; RUN_OPTIONS are further options of `run`,
# BUILD_OPTIONS of `build`. Takes some minutes; not part of the default test run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

read -ra engine <<<"${ENGINE:-docker}"
read -ra run_options <<<"${RUN_OPTIONS:-}"
read -ra build_options <<<"${BUILD_OPTIONS:-}"
step() { echo "[$SECONDS s] $*"; }
fail() { echo "FAILED: $*"; exit 1; }

if [ -z "${IMAGE:-}" ]; then
    IMAGE=metasgd-under-test
    "${engine[@]}" build "${build_options[@]}" -t "$IMAGE" .
    step "built"
fi
step "image size: $("${engine[@]}" image inspect --format '{{.Size}}' "$IMAGE") bytes"

runs=$(mktemp -d)
chmod 777 "$runs"  # the image's user is not ours
name=metasgd-under-test-$$
trap '"${engine[@]}" rm -f "$name" >/dev/null 2>&1 || :; rm -rf "$runs"' EXIT
metasgd() { "${engine[@]}" run --rm "${run_options[@]}" -v "$runs:/app/runs" "$IMAGE" "$@"; }
fit=(python -m metasgd fit --config configs/glyphs.yaml --trainer.enable_progress_bar false --ckpt_path resume)

metasgd | grep -q 'usage: python -m metasgd' || fail "the default command does not print the help"
[ "$(metasgd id -u)" = 1000 ] || fail "it runs as another user than 1000"
step "help, user"

metasgd "${fit[@]}" --trainer.logger.init_args.version 1 \
    --trainer.max_steps 100 --trainer.val_check_interval 50 --data.val_tasks 50
[ -s "$runs/glyphs/version_1/checkpoints/best.ckpt" ] || fail "fit left no checkpoint"
step "a fit of 100 outer steps"

long=("${fit[@]}" --trainer.logger.init_args.version 2 --data.val_tasks 50 --trainer.val_check_interval 100000)
"${engine[@]}" run --detach --name "$name" "${run_options[@]}" -v "$runs:/app/runs" "$IMAGE" \
    "${long[@]}" --trainer.max_steps 100000 --last_checkpoint.every_n_steps 10 >/dev/null
last=$runs/glyphs/version_2/checkpoints/last.ckpt
for _ in $(seq 600); do [ -e "$last" ] && break; sleep 0.5; done
[ -e "$last" ] || fail "no checkpoint after 5 minutes"
"${engine[@]}" stop --time 60 "$name" >/dev/null
code=$("${engine[@]}" inspect --format '{{.State.ExitCode}}' "$name")
[ "$code" = 143 ] || fail "SIGTERM ended it with exit code $code, not 143"
read_step="import sys, torch; print(torch.load(sys.argv[1], weights_only=True)['global_step'])"
stopped_at=$(metasgd python -c "$read_step" runs/glyphs/version_2/checkpoints/last.ckpt)
step "stopped by SIGTERM with exit code 143, saved at outer step $stopped_at"

end=$((stopped_at + 5))
metasgd "${long[@]}" --trainer.max_steps "$end"
[ "$(metasgd python -c "$read_step" runs/glyphs/version_2/checkpoints/last.ckpt)" = "$end" ] || fail "it did not resume"
step "resumed, to outer step $end"
echo "all well"
