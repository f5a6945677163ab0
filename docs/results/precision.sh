#!/usr/bin/env bash
# What bf16 costs and brings on a CPU with AMX: the trainings of a part of docs/results/part.sh that are in bf16, Independent
# and the confirmed best graph, once more in float32.
#
#   docs/results/precision.sh NAME DATASET NODES IMAGES EPOCHS [key=value ...]     # as part.sh, in the same folder, after it
#
# Two trainings at a time, one thread each, compiled. It goes on where it stopped. `python precision.py runs/train` makes the
# table. Times are comparable if nothing else ran beside either.
set -euo pipefail
runs=${KDHPC_RUNS:-runs}
name=$1 dataset=$2 nodes=$3 images=$4 epochs=$5
shift 5
for seed in 0 1 2 3 4; do
    echo "--graph independent --nodes $nodes --seeds $seed run.name=float32-$name-independent"
    echo "--graph $runs/$name/all/$name-best.json --seeds $seed run.name=float32-$name-confirmed"
done | xargs -P 2 -L 1 kdhpc train training=short training.evaluate=last dataset="$dataset" network=resnet8 \
    dataset.subset="$images" training.epochs="$epochs" 'training.milestones=[0.5,0.75]' device.threads=1 \
    device.precision=float32 device.mode=compile "$@"
