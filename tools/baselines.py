"""The last step of tools/quickstart: whether the searched graph gained anything over two baselines.

Reads what ``kdhpc results --format json`` prints, and is told the name of each training:

    kdhpc results --format json | python -m tools.baselines SEARCHED INDEPENDENT DML
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

T_95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776}
"""97.5 % quantile of Student's t by degrees of freedom: three seeds on each side have four."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and standard deviation over seeds, in percent."""

    mean: float
    std: float | None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training, all of its seeds together."""

    label: str
    num_seeds: int
    """Seeds that have an accuracy."""
    node: Spread | None
    ensemble: Spread | None
    """None: all seeds diverged."""
    setting: tuple[object, ...]
    """What must be equal for the comparison to be fair."""


def read_rows(text: str, names: Sequence[str]) -> list[Row]:
    """The trainings of these names, in this order: the searched graph, independent, dml.

    Raises:
        ValueError: one of them is missing, or they were not trained alike.
    """
    by_name = {training["name"]: training for training in json.loads(text)}
    if missing := [name for name in names if name not in by_name]:
        raise ValueError(f"no result of {', '.join(missing)}: train it with `kdhpc train run.name={missing[0]} ...`")
    rows = [
        Row(
            label=label,
            num_seeds=len(training["seeds"]),
            node=_spread(training["node"]),
            ensemble=_spread(training["ensemble"]),
            setting=tuple(
                training[key] for key in ("dataset", "network", "num_nodes", "epochs", "training_images", "scored_on")
            ),
        )
        for label, training in zip(("searched graph", "independent", "dml"), map(by_name.get, names), strict=True)
        if training is not None
    ]
    if len({row.setting for row in rows}) > 1:
        raise ValueError(f"these were not trained alike: {'; '.join(f'{row.label} {row.setting}' for row in rows)}")
    return rows


def _spread(document: dict[str, float | None] | None) -> Spread | None:
    mean = None if document is None else document["mean"]
    return None if document is None or mean is None else Spread(mean=mean, std=document["std"])


def table(rows: Sequence[Row]) -> str:
    """Node and ensemble accuracy of each."""
    cells = [
        ("", "nodes", "ensemble", "seeds"),
        *((row.label, str(row.node or "-"), str(row.ensemble or "-"), str(row.num_seeds)) for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def verdict(searched: Row, baselines: Sequence[Row]) -> str:
    """What the search gained in ensemble accuracy, or lost, and whether so few seeds can tell."""
    compared = " and ".join(_compare(searched, baseline) for baseline in baselines)
    return f"On these test images, the searched graph's ensemble {compared}."


def _compare(searched: Row, baseline: Row) -> str:
    ours, theirs = searched.ensemble, baseline.ensemble
    degrees = searched.num_seeds + baseline.num_seeds - 2
    if ours is None or theirs is None or ours.std is None or theirs.std is None or degrees not in T_95:
        return f"cannot be compared with {baseline.label} (too few seeds have an accuracy)"
    gain = ours.mean - theirs.mean
    margin = T_95[degrees] * math.sqrt(ours.std**2 / searched.num_seeds + theirs.std**2 / baseline.num_seeds)
    where = "above" if gain >= 0 else "below"
    by_chance = "may be chance" if abs(gain) <= margin else "hardly chance"
    interval = f"95 % interval {gain - margin:+.2f} to {gain + margin:+.2f}"
    return f"is {abs(gain):.2f} points {where} {baseline.label} ({by_chance}: {interval})"


def main(names: Sequence[str]) -> int:
    """Print the table and the sentence.

    Returns:
        0 done, 1 there is nothing to compare.
    """
    try:
        rows = read_rows(sys.stdin.read(), names)
    except ValueError as exc:
        print(f"tools/baselines.py: {exc}", file=sys.stderr)
        return 1
    print(table(rows))
    print("top-1 on the test images in percent, mean ± standard deviation over seeds\n")
    print(verdict(rows[0], rows[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
