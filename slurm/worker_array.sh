#!/bin/bash
# More workers for a study that exists, as a plain job array (no submitit). From the same folder:
#
#     sbatch --array=0-7 slurm/worker_array.sh --study quickstart [key=value ...]
#
# Its arguments are those of `kdhpc worker`. Workers join whatever runs already; those beyond the budget exit at once.
#SBATCH --job-name=kdhpc-worker
#SBATCH --array=0-3
#SBATCH --ntasks=1
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
# Before the time limit a worker checkpoints its trial and requeues its own array task.
#SBATCH --requeue
#SBATCH --signal=B:USR2@180
#SBATCH --output=slurm-%A_%a.out
#SBATCH --open-mode=append

cd "$SLURM_SUBMIT_DIR" || exit
unset VIRTUAL_ENV  # That of the shell that submitted.
export KDHPC_SLURM_JOB=$SLURM_JOB_ID  # It is an array's task: SLURM_ARRAY_TASK_ID is not inherited from another job.
if [ -e slurm/site.sh ]; then . slurm/site.sh; fi
# By its path: it runs the python beside it, whatever modules put first. exec: bash would keep the signal to itself until
# its child ends.
exec "${VIRTUAL_ENV:-$PWD/.venv}/bin/kdhpc" worker --requeue "$@"
