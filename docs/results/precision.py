"""The tables of what docs/results/precision.sh trained: accuracy in float32 and bf16, in pairs of seeds, and times.

python precision.py FOLDER     # runs/train, or docs/results, where the results are kept
"""

import json
import re
import sys
from itertools import chain
from pathlib import Path
from statistics import mean, stdev

from kdhpc.final.student_t import two_sided_t

FLOAT32 = "float32-"
TIMING = "timing-"
PREFIX = re.compile(rf"^({TIMING}(compile|eager)-(bf16-|{FLOAT32})|{FLOAT32})")
"""What precision.sh puts before the name of a part's training."""


def difference(values: list[float]) -> str:
    """Mean of paired differences and its 95 % interval, by the paired t-test."""
    margin = two_sided_t(0.95, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):+.2f} [{mean(values) - margin:+.2f}, {mean(values) + margin:+.2f}]"


def tables(folder: Path) -> str:
    """Markdown: accuracy, with a row for each training, each data set and all pairs; then times."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for path in sorted(folder.rglob("*.json")):
        result = json.loads(path.read_text())
        if isinstance(result, dict) and result.get("format") == "kdhpc-result":
            found[result["name"], result["seed"]] = result
    return f"{_accuracies(found)}\n\n{_times(found)}"


def _accuracies(found: dict[tuple[str, int], dict[str, float]]) -> str:
    rows: dict[str, list[tuple[float, float]]] = {}
    for (name, seed), exact in sorted(found.items()):
        half = found.get((name.removeprefix(FLOAT32), seed))
        if name.startswith(FLOAT32) and half is not None:
            pair = (exact["ensemble_accuracy"], half["ensemble_accuracy"])
            rows.setdefault(name.removeprefix(FLOAT32), []).append(pair)
    if not rows:
        sys.exit("there is no seed of a training that was trained in both precisions")
    parts: dict[str, list[tuple[float, float]]] = {}
    for name, pairs in rows.items():
        parts.setdefault(f"both of {name.rpartition('-')[0]}", []).extend(pairs)
    rows |= parts | {"all": list(chain.from_iterable(rows.values()))}
    lines = ["| training | pairs | float32 | bf16 | difference, points |", "|---|---:|---:|---:|---:|"]
    for training, pairs in rows.items():
        float32, bf16 = (f"{mean(side):.2f}" for side in zip(*pairs, strict=True))
        if training == "all":  # Of several data sets: a mean of accuracies says nothing.
            float32 = bf16 = ""
        apart = difference([b - a for a, b in pairs]) if len(pairs) > 1 else "-"
        lines.append(f"| {training} | {len(pairs)} | {float32} | {bf16} | {apart} |")
    return "\n".join(lines)


def _times(found: dict[tuple[str, int], dict[str, float]]) -> str:
    lines = ["| training | mode | float32, s | bf16, s | times as fast |", "|---|---|---:|---:|---:|"]
    for mode in ("compile", "eager"):
        exact = f"{TIMING}{mode}-{FLOAT32}"
        for name, seed in sorted(found):
            half = found.get((name.replace(exact, f"{TIMING}{mode}-bf16-"), seed))
            if name.startswith(exact) and half is not None:
                slow, fast = found[name, seed]["seconds"], half["seconds"]
                training = name.removeprefix(exact)
                lines.append(f"| {training} | {mode} | {slow:.0f} | {fast:.0f} | {slow / fast:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(tables(Path(sys.argv[1])))
