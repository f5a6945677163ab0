"""The table of what docs/results/precision.sh trained: accuracy and time in float32 and bf16, in pairs of seeds.

python precision.py FOLDER     # runs/train
"""

import json
import sys
from pathlib import Path
from statistics import mean, stdev

from kdhpc.final.student_t import two_sided_t


def difference(values: list[float]) -> str:
    """Mean of paired differences and its 95 % interval, by the paired t-test."""
    margin = two_sided_t(0.95, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):+.2f} [{mean(values) - margin:+.2f}, {mean(values) + margin:+.2f}]"


def table(folder: Path) -> str:
    """Markdown: a row for each data set and graph, and one for all pairs."""
    found: dict[str, dict[str, dict[int, dict[str, float]]]] = {}
    for path in sorted(folder.rglob("*.json")):
        result = json.loads(path.read_text())
        if result.get("format") == "kdhpc-result" and result["name"].startswith("precision-"):
            training, _, precision = result["name"].removeprefix("precision-").rpartition("-")
            found.setdefault(training, {}).setdefault(precision, {})[result["seed"]] = result
    lines = [
        "| training | pairs | float32 | bf16 | difference, points | float32, s | bf16, s | times as fast |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    rows = {training: _pairs(by_precision) for training, by_precision in sorted(found.items())}
    if not any(rows.values()):
        sys.exit(f"{folder} has no seed of a training precision-* in both precisions")
    rows["all"] = [pair for pairs in rows.values() for pair in pairs]
    for training, pairs in rows.items():
        exact, half = ([pair[side]["ensemble_accuracy"] for pair in pairs] for side in (0, 1))
        slow, fast = (mean(pair[side]["seconds"] for pair in pairs) for side in (0, 1))
        apart = difference([b - a for a, b in zip(exact, half, strict=True)]) if len(pairs) > 1 else "-"
        lines.append(
            f"| {training} | {len(pairs)} | {mean(exact):.2f} | {mean(half):.2f} | {apart} | {slow:.0f} | {fast:.0f} | "
            f"{slow / fast:.2f} |"
        )
    return "\n".join(lines)


def _pairs(by_precision: dict[str, dict[int, dict[str, float]]]) -> list[tuple[dict[str, float], dict[str, float]]]:
    exact, half = by_precision.get("float32", {}), by_precision.get("bf16", {})
    return [(exact[seed], half[seed]) for seed in sorted(exact.keys() & half.keys())]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(table(Path(sys.argv[1])))
