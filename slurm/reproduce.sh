#!/bin/bash
# A table or a figure of the paper on this cluster: this small job submits each search and training when what it needs is
# done, hosts PostgreSQL unless there is a database, and writes the page. From the checkout, or the folder of `kdhpc init`:
#
#     sbatch slurm/reproduce.sh table2 [key=value ...]
#
# Its arguments are those of `kdhpc reproduce`. What is this site's goes to slurm/site.sh, see slurm/site.sh.example.
#SBATCH --job-name=kdhpc-reproduce
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=8G
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
exec "${VIRTUAL_ENV:-$PWD/.venv}/bin/kdhpc" reproduce --launcher submitit_slurm --requeue "$@"
