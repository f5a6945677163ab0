#!/usr/bin/env bash
# Does a graph that was searched on one data set gain something on another? Trains the confirmed best graph of the part FROM
# as docs/results/part.sh has trained the graphs of the part TO: compare runs/train/TO-independent and TO-confirmed.
#
#   docs/results/transfer.sh FROM TO DATASET IMAGES EPOCHS [key=value ...]     # DATASET, ...: those of TO
set -euo pipefail
runs=${KDHPC_RUNS:-runs}
from=$1 to=$2 dataset=$3 images=$4 epochs=$5
shift 5
for seed in 0 1 2 3 4; do
    echo "--graph $runs/$from/all/$from-best.json --seeds $seed run.name=$to-of-$from"
done | xargs -P 2 -L 1 kdhpc train training=short training.evaluate=last dataset="$dataset" network=resnet8 \
    dataset.subset="$images" training.epochs="$epochs" 'training.milestones=[0.5,0.75]' device.threads=1 \
    device.precision=bf16 device.mode=compile "$@"
kdhpc results "$runs"/train/"$to"-{independent,confirmed,of-"$from"} --against "$to-independent"
