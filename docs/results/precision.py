"""The table of what docs/results/precision.sh trained: accuracy and time in float32 and bf16, in pairs of seeds.

python precision.py FOLDER     # runs/train, with float32-NAME beside each NAME
"""

import json
import sys
from pathlib import Path
from statistics import mean, stdev

from kdhpc.final.student_t import two_sided_t

FLOAT32 = "float32-"


def difference(values: list[float]) -> str:
    """Mean of paired differences and its 95 % interval, by the paired t-test."""
    margin = two_sided_t(0.95, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):+.2f} [{mean(values) - margin:+.2f}, {mean(values) + margin:+.2f}]"


def table(folder: Path) -> str:
    """Markdown: a row for each training, and one for all pairs."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for path in sorted(folder.rglob("*.json")):
        result = json.loads(path.read_text())
        if isinstance(result, dict) and result.get("format") == "kdhpc-result":
            found[result["name"], result["seed"]] = result
    rows: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {}
    for (name, seed), exact in sorted(found.items()):
        half = found.get((name.removeprefix(FLOAT32), seed))
        if name.startswith(FLOAT32) and half is not None:
            rows.setdefault(name.removeprefix(FLOAT32), []).append((exact, half))
    if not rows:
        sys.exit(f"{folder} has no seed of a training that was trained in both precisions")
    lines = [
        "| training | pairs | float32 | bf16 | difference, points | float32, s | bf16, s | times as fast |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    rows["all"] = [pair for pairs in rows.values() for pair in pairs]
    for training, pairs in rows.items():
        float32, bf16 = ([pair[side]["ensemble_accuracy"] for pair in pairs] for side in (0, 1))
        slow, fast = (mean(pair[side]["seconds"] for pair in pairs) for side in (0, 1))
        apart = difference([b - a for a, b in zip(float32, bf16, strict=True)]) if len(pairs) > 1 else "-"
        lines.append(
            f"| {training} | {len(pairs)} | {mean(float32):.2f} | {mean(bf16):.2f} | {apart} | {slow:.0f} | "
            f"{fast:.0f} | {slow / fast:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(table(Path(sys.argv[1])))
