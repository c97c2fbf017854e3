#!/usr/bin/env bash
# metasgd on SLURM, on one node or several: `sbatch cluster/slurm.sh`, in the folder where you would run it by hand.
# The job saves and requeues itself before its time is over, and resumes its own run whenever it starts again.
# See docs/cluster.md.

# (SLURM reads the lines that begin with #SBATCH up to the first command.)

# --- change these lines
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
# --- these can stay
#SBATCH --job-name=metasgd
#SBATCH --output=metasgd-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@180
# --- change these lines
config=configs/omniglot.yaml
environment=.venv
# --- the rest can stay

set -euo pipefail
# shellcheck source=/dev/null
source "$environment/bin/activate"

# The run has the job's number, which requeueing does not change. A node that vanishes ends the others after 5 minutes.
srun --kill-on-bad-exit=1 python -m metasgd fit --config "$config" \
    --ckpt_path resume --trainer.logger.init_args.version "$SLURM_JOB_ID" \
    --trainer.strategy DDPStrategy --trainer.strategy.timeout 0:5:0 "$@"
