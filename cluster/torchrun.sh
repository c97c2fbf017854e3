#!/usr/bin/env bash
# metasgd on several hosts, started by hand or by any scheduler: run this on every host, with the same lines below.
# Workers that die are started again from the last checkpoint; the same command resumes the run at any later time.
# See docs/cluster.md.
set -euo pipefail

# --- change these lines, or set them in the environment
hosts=${HOSTS:-2}                       # how many; 2:4 for at least 2 and at most 4
per_host=${PER_HOST:-gpu}               # processes on each: gpu is one for each GPU; or a number
first=${FIRST:-node1:29400}             # one of the hosts, by its own `hostname`, and a free port there
run=${RUN:-1}                           # the number of this job's run
config=${CONFIG:-configs/omniglot.yaml}
runs=${RUNS:-runs}                      # a folder that all hosts share, or an address such as s3://bucket/runs
restarts=${RESTARTS:-3}                 # how often dead workers are started again
# --- the rest can stay

# workers that are started again get a store of their own, without the addresses of the dead ones
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# a host that vanishes ends the others' waiting after 5 minutes, and their agents' sooner than after 15 more with
# sysctl net.ipv4.tcp_retries2=8 (see docs/cluster.md)
exec torchrun --nnodes "$hosts" --nproc-per-node "$per_host" --max-restarts "$restarts" \
    --rdzv-backend c10d --rdzv-endpoint "$first" --rdzv-id "metasgd-$run" \
    -m metasgd fit --config "$config" \
    --ckpt_path resume --trainer.logger.init_args.save_dir "$runs" --trainer.logger.init_args.version "$run" \
    --trainer.strategy DDPStrategy --trainer.strategy.timeout 0:5:0 "$@"
