#!/usr/bin/env bash
# A search, then the question whether anything was gained: the best graphs, confirmed with new seeds, beside fixed graphs,
# ONE, SLA and FRSKD, trained alike and scored on the official test images.
#
#   docs/results/part.sh NAME DATASET NODES IMAGES EPOCHS [key=value ...]
#
# In a folder whose data/ has the data set. The search trains on IMAGES images and scores on three times as many others; the
# trainings after it have as many images and epochs. Two at a time, one thread each, in bf16, compiled (1.7 times as fast as
# float32, eager, on CIFAR-100 and two cores with AMX). It goes on where it stopped. TRIALS: graphs of the search (default:
# 120). SEARCH: more keys of the search alone, as SEARCH="study.prune_from=16 study.sampler=evolve". BESIDE: an earlier part
# that differs in its search alone, so that the fixed graphs are trained already: only the graphs of this search are.
set -euo pipefail
runs=${KDHPC_RUNS:-runs}
name=$1 dataset=$2 nodes=$3 images=$4 epochs=$5 beside=${BESIDE:-$1}
shift 5
common=(dataset="$dataset" network=resnet8 training.epochs="$epochs" 'training.milestones=[0.5,0.75]' device.threads=1
    device.precision=bf16 device.mode=compile "$@")
search=(--study "$name" study=quickstart study.num_nodes="$nodes" dataset.subset=$((4 * images))
    dataset.validation_fraction=0.75 "${common[@]}")
read -ra own_keys <<< "${SEARCH:-}"

kdhpc search "${search[@]}" "${own_keys[@]}" --trials "${TRIALS:-120}" --workers 2
[ -e "$runs/$name/unconfirmed" ] || kdhpc export-best --study "$name" --out "$runs/$name/unconfirmed"
kdhpc confirm --study "$name" --top 5 --seeds 3 --workers 2 device.threads=1 device.mode=compile
kdhpc export-best --study "$name" --top 1000 --out "$runs/$name/all"
kdhpc status --study "$name" --format json > "$runs/$name/status.json"

# The graph in the middle of those that were trained to the end, by their value in the search.
median=$(python - "$runs/$name/all" "$name" <<'PYTHON'
import csv, sys
from pathlib import Path
(table,) = Path(sys.argv[1]).glob("*.csv")
rows = sorted(csv.DictReader(table.open()), key=lambda row: float(row["value"]))
print(table.with_name(f"{sys.argv[2]}-trial{rows[len(rows) // 2]['trial']}.json"))
PYTHON
)

# trainings NAME GRAPH SEED ...: a line each, as words of a command
trainings() {
    local name=$name-$1 graph=$2
    shift 2
    for seed in "$@"; do
        echo "--graph $graph --seeds $seed run.name=$name"
    done
}
edges() { python -c 'import json, sys; found = json.load(open(sys.argv[1])); print(found["label_edges"], found["edges"])' "$1"; }
own() { [[ $1 == sla || $1 == frskd ]] || echo "--nodes $nodes"; }

{
    for seed in 0 1 2 3 4; do
        trainings confirmed "$runs/$name/all/$name-best.json" "$seed"
        [ "$beside" != "$name" ] ||
            for graph in independent dml uniform:prob-; do trainings "${graph/:/-}" "$graph $(own $graph)" "$seed"; done
    done
    trainings median "$median" 0 1 2
    [ "$beside" != "$name" ] ||
        for graph in uniform:att- one sla frskd; do trainings "${graph/:/-}" "$graph $(own $graph)" 0 1 2; done
    # Often the same graph; then its trainings are the same, too.
    [[ $(edges "$runs/$name/all/$name-best.json") == "$(edges "$runs/$name/unconfirmed/$name-best.json")" ]] ||
        trainings unconfirmed "$runs/$name/unconfirmed/$name-best.json" 0 1 2 3 4
} | xargs -P 2 -L 1 kdhpc train training=short training.evaluate=last dataset.subset="$images" "${common[@]}"

measures=ensemble,node,nll,ece,mutual_kl
found=()
for training in "$name"-{confirmed,unconfirmed,median} "$beside"-{independent,dml,uniform-prob-,uniform-att-,one,sla,frskd}; do
    [ ! -d "$runs/train/$training" ] || found+=("$runs/train/$training")
done
# The two tables of README.md.
kdhpc results "${found[@]}" --columns "$measures" --format markdown
kdhpc results "${found[@]}" --against "$beside-independent" --columns "$measures" --format markdown
kdhpc results "${found[@]}" --format csv > "$runs/$name/results.csv"
