"""The best graphs of a study as files: JSON with provenance, a drawing each, and one CSV of them all."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from kdhpc import __version__
from kdhpc.config.document import flatten
from kdhpc.files import write_whole
from kdhpc.graph.drawing import draw_graph
from kdhpc.graph.serial import write_graph
from kdhpc.graph.space import graph_key
from kdhpc.study.definition import StudyDefinition
from kdhpc.study.summary import TrialRecord


@dataclass(frozen=True, kw_only=True)
class ExportedGraph:
    """The files of one graph."""

    graph: Path
    """JSON that ``kdhpc`` reads back."""
    svg: Path
    """Drawing."""
    png: Path
    """The same drawing."""


def export_trials(
    definition: StudyDefinition, trials: Sequence[TrialRecord], folder: Path
) -> tuple[tuple[ExportedGraph, ...], Path]:
    """Write the graphs of some trials, best first.

    Args:
        definition: The study that they are from.
        trials: Complete trials, best first, at least one.
        folder: Where to; made if needed.

    Returns:
        The files of the best graph by a name that commands can rely on (``<study>-best``), those of each graph by its
        trial's number, and the CSV with a row for each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    best = _export(definition, trials[0], folder / f"{definition.name}-best")
    each = [_export(definition, trial, folder / f"{definition.name}-trial{trial.number}") for trial in trials]
    return (best, *each), _write_table(definition, trials, folder)


def provenance(definition: StudyDefinition, trial: TrialRecord) -> dict[str, str | int | float]:
    """Where a graph comes from: study, trial, value, data set, network, every setting, versions."""
    return {
        "study": definition.name,
        "trial": trial.number,
        "value": trial.value,
        "graph_key": graph_key(trial.graph),
        "dataset": definition.dataset,
        "dataset_checksum": definition.dataset_checksum,
        "network": definition.network,
        "seed": definition.seed,
        "pruner": definition.pruner,
        "sampler": definition.sampler,
        **flatten("config", json.loads(definition.settings)),
        "kdhpc_version": __version__,
        "torch_version": version("torch"),
        "optuna_version": version("optuna"),
    }


def _export(definition: StudyDefinition, trial: TrialRecord, stem: Path) -> ExportedGraph:
    graph, svg, png = (stem.with_name(f"{stem.name}.{ending}") for ending in ("json", "svg", "png"))
    files = ExportedGraph(graph=graph, svg=svg, png=png)
    write_graph(files.graph, trial.graph, provenance=provenance(definition, trial))
    title = f"{definition.name}, trial {trial.number} ({definition.network}, {definition.dataset})"
    draw_graph(trial.graph, (files.svg, files.png), title=title, ensemble_accuracy=trial.value)
    return files


def _write_table(definition: StudyDefinition, trials: Sequence[TrialRecord], folder: Path) -> Path:
    path = folder / f"{definition.name}-best.csv"
    names = [parameter.name for parameter in definition.space.parameters()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "trial", "value", "graph_key", *names])
    for rank, trial in enumerate(trials, start=1):
        row = definition.space.to_parameters(trial.graph)
        writer.writerow([rank, trial.number, trial.value, graph_key(trial.graph), *(row[name] for name in names)])
    write_whole(path, text.getvalue())
    return path
