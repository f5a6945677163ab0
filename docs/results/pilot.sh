#!/usr/bin/env bash
# In which setting can networks gain from each other? Trains Independent, DML and other fixed graphs of three ResNet-8
# on parts of CIFAR-100, each training on 100,000 images in all (epochs x images), without any search.
#
#   docs/results/pilot.sh SEED     # in a folder whose data/ has cifar100; one process, one thread
set -euo pipefail
seed=${1:?which seed}

# train NAME IMAGES EPOCHS key=value ...: all graphs in one setting
train() {
    local name=$1 images=$2 epochs=$3
    shift 3
    for graph in independent dml uniform:att- uniform:prob-; do
        kdhpc train --graph "$graph" --nodes 3 --seeds "$seed" run.name="pilot-$name-${graph/:/-}" \
            dataset=cifar100 network=resnet8 training=short dataset.subset="$images" training.epochs="$epochs" \
            'training.milestones=[0.5,0.75]' training.evaluate=last device.threads=1 "$@"
    done
}

plain=(dataset.pad=0 dataset.flip=false)
train plain2000 2000 50 "${plain[@]}"
train crops2000 2000 50
train plain5000 5000 20 "${plain[@]}"
train crops10000 10000 10
