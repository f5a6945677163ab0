"""What docs/results/samplers.sh found: one study's trials as JSON, and the table and the figure of all studies.

python samplers.py trials URL STUDY > runs/samplers/SAMPLER-SEED.json
python samplers.py table runs/samplers OUT
"""

import json
import sys
from pathlib import Path
from statistics import mean, stdev

SHOWN = (5, 10, 20, 40)
"""Numbers of trials in the table."""


def trials(url: str, study: str) -> list[dict[str, object]]:
    """All trials in the order in which they began; a value where one was trained to the end."""
    import optuna

    found = optuna.load_study(study_name=study, storage=url)
    return [
        {"number": trial.number, "state": trial.state.name, "value": trial.value, "reports": trial.intermediate_values}
        for trial in sorted(found.trials, key=lambda trial: trial.number)
    ]


def best_so_far(document: list[dict[str, object]]) -> list[float]:
    """The best value of the first 1, 2, ... trials; nan before the first that was trained to the end."""
    best, curve = float("nan"), []
    for trial in document:
        value = trial["value"] if trial["state"] == "COMPLETE" else None
        if value is not None and not float(value) <= best:
            best = float(value)
        curve.append(best)
    return curve


def table(folder: Path, out: Path) -> None:
    """Write ``samplers.md`` and ``samplers.png`` and ``.svg``."""
    from matplotlib.figure import Figure

    curves: dict[str, list[list[float]]] = {}
    for path in sorted(folder.glob("*.json")):
        curves.setdefault(path.stem.rpartition("-")[0], []).append(best_so_far(json.loads(path.read_text())))
    if not curves or min(len(curve) for found in curves.values() for curve in found) < SHOWN[-1]:
        sys.exit(f"{folder} has no studies, or one with fewer than {SHOWN[-1]} trials")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    lines = [
        "| sampler | " + " | ".join(f"after {num}" for num in SHOWN) + " | studies |",
        "|---|" + "---:|" * (len(SHOWN) + 1),
    ]
    for color, (sampler, found) in enumerate(sorted(curves.items())):
        cells = []
        for num in SHOWN:
            values = [curve[num - 1] for curve in found]
            spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.2f}{spread}")
        lines.append(f"| {sampler} | " + " | ".join(cells) + f" | {len(found)} |")
        for curve in found:
            axes.plot(range(1, len(curve) + 1), curve, color=f"C{color}", linewidth=0.8, alpha=0.5)
        means = [mean(values) for values in zip(*found, strict=True)]
        axes.plot(range(1, len(means) + 1), means, color=f"C{color}", linewidth=2, label=sampler)
    lowest = min(curve[SHOWN[0] - 1] for found in curves.values() for curve in found)
    axes.set_ylim(bottom=lowest - 0.5)  # The very first trials may be anywhere.
    axes.set_xlabel("trials")
    axes.set_ylabel("best ensemble accuracy on validation images, %")
    axes.legend(title="mean of the studies (thick)")
    out.mkdir(parents=True, exist_ok=True)
    for ending in ("png", "svg"):
        figure.savefig(out / f"samplers.{ending}", dpi=150)
    (out / "samplers.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["trials", url, study]:
            json.dump(trials(url, study), sys.stdout, indent=1)
        case ["table", folder, out]:
            table(Path(folder), Path(out))
        case _:
            sys.exit(__doc__)
