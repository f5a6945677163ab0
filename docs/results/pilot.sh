#!/usr/bin/env bash
# In which setting can networks gain from each other? Trains Independent, DML and other fixed graphs of three ResNet-8
# on parts of a data set, each training on as many images in all (epochs x images), without any search.
#
#   docs/results/pilot.sh SEED [SETTING ...]     # in a folder whose data/ has the data set
#
# DATASET (default: cifar100), NODES (3) and SEEN, the images of a training (100000), are variables of the environment. Two
# trainings at a time, one thread each, compiled, in bf16 (CIFAR-100, AMX: 1.7 times as fast as float32, eager). It goes
# on where it stopped.
set -euo pipefail
seed=${1:?which seed} dataset=${DATASET:-cifar100} nodes=${NODES:-3} seen=${SEEN:-100000}
shift
name=pilot
[[ $dataset == cifar100 && $nodes == 3 ]] || name=pilot-$dataset-$nodes
[ $# -gt 0 ] || set -- plain1000 plain2000 plain5000 crops2000 crops10000

for setting in "$@"; do
    images=${setting//[a-z]/}
    plain="dataset.pad=0 dataset.flip=false"
    [[ $setting == plain* ]] || plain=""
    for graph in independent dml uniform:att- uniform:prob-; do
        echo "--graph $graph --nodes $nodes --seeds $seed run.name=$name-$setting-${graph/:/-}" \
            "dataset.subset=$images training.epochs=$((seen / images))${plain:+ $plain}"
    done
done | xargs -P 2 -L 1 kdhpc train dataset="$dataset" network=resnet8 training=short 'training.milestones=[0.5,0.75]' \
    training.evaluate=last device.threads=1 device.precision=bf16 device.mode=compile
