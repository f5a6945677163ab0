#!/usr/bin/env bash
# What bf16 costs and brings on a CPU with AMX: the same trainings in float32 and in bf16, compiled, five seeds, two data
# sets, two graphs of three ResNet-8.
#
#   docs/results/precision.sh [GRAPH]     # in a folder whose data/ has cifar100 and fashion_mnist; GRAPH: zoo/cifar100-3
#
# Two trainings at a time, one thread each, without augmentation. It goes on where it stopped. `python precision.py runs/train`
# makes the table.
set -euo pipefail
graph=${1:-zoo/cifar100-3}

for seed in 0 1 2 3 4; do
    for setting in "cifar100 50" "fashion_mnist 20"; do
        read -r dataset epochs <<< "$setting"
        for precision in float32 bf16; do
            common="--seeds $seed dataset=$dataset training.epochs=$epochs device.precision=$precision"
            echo "--graph independent --nodes 3 $common run.name=precision-$dataset-independent-$precision"
            echo "--graph $graph $common run.name=precision-$dataset-graph-$precision"
        done
    done
done | xargs -P 2 -L 1 kdhpc train network=resnet8 training=short 'training.milestones=[0.5,0.75]' \
    training.evaluate=last dataset.subset=2000 dataset.pad=0 dataset.flip=false device.threads=1 device.mode=compile
