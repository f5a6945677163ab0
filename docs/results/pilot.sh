#!/usr/bin/env bash
# In which setting can networks gain from each other? Trains Independent, DML and other fixed graphs of three ResNet-8
# on parts of CIFAR-100, each training on 100,000 images in all (epochs x images), without any search.
#
#   docs/results/pilot.sh SEED [SETTING ...]     # in a folder whose data/ has cifar100
#
# Two trainings at a time, one thread each, compiled, in bf16 (two cores with AMX: 1.7 times as fast as float32, eager). It
# goes on where it stopped.
set -euo pipefail
seed=${1:?which seed}
shift
[ $# -gt 0 ] || set -- plain1000 plain2000 plain5000 crops2000 crops10000

for setting in "$@"; do
    images=${setting//[a-z]/}
    plain="dataset.pad=0 dataset.flip=false"
    [[ $setting == plain* ]] || plain=""
    for graph in independent dml uniform:att- uniform:prob-; do
        echo "--graph $graph --nodes 3 --seeds $seed run.name=pilot-$setting-${graph/:/-}" \
            "dataset.subset=$images training.epochs=$((100000 / images))${plain:+ $plain}"
    done
done | xargs -P 2 -L 1 kdhpc train dataset=cifar100 network=resnet8 training=short 'training.milestones=[0.5,0.75]' \
    training.evaluate=last device.threads=1 device.precision=bf16 device.mode=compile
