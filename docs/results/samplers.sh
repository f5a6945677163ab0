#!/usr/bin/env bash
# Which sampler finds good graphs with few trials? Random, TPE, evolve and refine, 40 trials each, three seeds, at the size
# of tools/quickstart: two ResNet-8 on 2,000 images of Fashion-MNIST, 4 epochs, in float32.
#
#   docs/results/samplers.sh     # in a folder whose data/ has fashion_mnist; two workers, one thread each
#
# It goes on where it stopped. samplers.py makes the table and the figure of what it writes, runs/samplers/*.json.
set -euo pipefail
runs=${KDHPC_RUNS:-runs}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$runs/samplers"
for seed in 0 1 2; do
    for sampler in random tpe evolve refine; do
        name=samplers-$sampler-$seed
        [ -e "$runs/samplers/$sampler-$seed.json" ] && continue
        kdhpc search --study "$name" study=quickstart study.sampler="$sampler" study.seed="$seed" 'study.baselines=[]' \
            device.precision=float32 --trials 40 --workers 2
        python "$here/samplers.py" trials "$(kdhpc db url)" "$name" > "$runs/samplers/$sampler-$seed.part"
        mv "$runs/samplers/$sampler-$seed.part" "$runs/samplers/$sampler-$seed.json"
    done
done
