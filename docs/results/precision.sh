#!/usr/bin/env bash
# What bf16 costs and brings on a CPU with AMX: Independent and the confirmed best graph of a part of docs/results/part.sh,
# which are trained in bf16, once more in float32, five seeds; then seed 0 in both precisions side by side, compiled and
# eager, for times that compare.
#
#   docs/results/precision.sh NAME DATASET NODES IMAGES EPOCHS [key=value ...]     # as part.sh, in the same folder, after it
#
# Two trainings at a time, one thread each. It goes on where it stopped. `python precision.py runs/train` makes the tables.
set -euo pipefail
runs=${KDHPC_RUNS:-runs}
name=$1 dataset=$2 nodes=$3 images=$4 epochs=$5
shift 5
graphs=("independent --nodes $nodes" "$runs/$name/all/$name-best.json")
labels=(independent confirmed)
{
    for seed in 0 1 2 3 4; do
        for i in 0 1; do
            echo "--graph ${graphs[i]} --seeds $seed run.name=float32-$name-${labels[i]} device.precision=float32" \
                "device.mode=compile"
        done
    done
    for mode in compile eager; do
        for i in 0 1; do
            for precision in float32 bf16; do
                echo "--graph ${graphs[i]} --seeds 0 run.name=timing-$mode-$precision-$name-${labels[i]}" \
                    "device.precision=$precision device.mode=$mode"
            done
        done
    done
} | xargs -P 2 -L 1 kdhpc train training=short training.evaluate=last dataset="$dataset" network=resnet8 \
    dataset.subset="$images" training.epochs="$epochs" 'training.milestones=[0.5,0.75]' device.threads=1 "$@"
