#!/bin/bash
# Search for the best graph on this cluster: this small job submits the GPU workers as one job array, hosts PostgreSQL
# unless there is a database, and exports the best graph. From the checkout, or the folder of `kdhpc init`:
#
#     sbatch slurm/search_array.sh study=quickstart [key=value ...]
#
# Its arguments are those of `kdhpc launch`. What is this site's goes to slurm/site.sh, see slurm/site.sh.example.
#SBATCH --job-name=kdhpc-search
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=1-00:00:00
# Its time limit is no end: before it, it stops the server cleanly and requeues itself.
#SBATCH --requeue
#SBATCH --signal=B:USR2@300
# In the working folder: Slurm fails a job without a word when its log's folder does not exist.
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append

cd "$SLURM_SUBMIT_DIR" || exit
unset VIRTUAL_ENV  # That of the shell that submitted.
if [ -e slurm/site.sh ]; then . slurm/site.sh; fi
# By its path: it runs the python beside it, whatever modules put first. exec: bash would keep the signal to itself until
# its child ends.
# --wait: with a database elsewhere, a launcher would only submit.
exec "${VIRTUAL_ENV:-$PWD/.venv}/bin/kdhpc" launch --wait --requeue "$@"
