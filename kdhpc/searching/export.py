"""The best graphs of a study as files: JSON with provenance, a drawing each, and one CSV of them all."""

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

from kdhpc import __version__
from kdhpc.config.document import flatten
from kdhpc.config.goals import DEFAULT_GOAL, GOALS
from kdhpc.config.schema import networks_label
from kdhpc.errors import GraphError, StorageError
from kdhpc.files.writing import write_whole
from kdhpc.graph.serial import read_stored, write_graph
from kdhpc.graph.space import graph_key
from kdhpc.graph.spec import GraphSpec
from kdhpc.study.definition import StudyDefinition
from kdhpc.study.status import TrialRecord

_LOG = logging.getLogger(__name__)
_CONFIRMED = ("confirmed_mean", "confirmed_error", "confirmed_seeds")


@dataclass(frozen=True, kw_only=True)
class ExportedGraph:
    """The files of one graph."""

    graph: Path
    """JSON that ``kdhpc`` reads back."""
    svg: Path | None
    """Drawing; None: it was not asked for."""
    png: Path | None
    """The same drawing."""


def export_trials(
    definition: StudyDefinition,
    trials: Sequence[TrialRecord],
    folder: Path,
    *,
    study_uid: str | None = None,
    draw: bool = True,
) -> tuple[tuple[ExportedGraph, ...], Path]:
    """Write the graphs of some trials, best first.

    Args:
        definition: The study that they are from.
        trials: Complete trials, best first, at least one.
        folder: Where to; made if needed.
        study_uid: Names this study and no other, not even one of its name that was made after it was deleted; None:
            not known.
        draw: Whether to draw the graphs, too.

    Returns:
        The files of the best graph by a name that commands can rely on (``<study>-best``), those of each graph by its
        trial's number, and the CSV with a row for each.
    """

    def export(trial: TrialRecord, name: str) -> ExportedGraph:
        return _export(definition, trial, folder / f"{definition.name}-{name}", study_uid, draw=draw)

    if study_uid is not None:
        _tell_about_others(definition.name, folder, study_uid)
    best = export(trials[0], "best")
    each = [export(trial, f"trial{trial.number}") for trial in trials]
    return (best, *each), _write_table(definition, trials, folder)


def named_graph(definition: StudyDefinition, graph: GraphSpec) -> GraphSpec:
    """A trial's graph with the networks of its nodes, where they may differ."""
    nodes = _network_group(definition).get("nodes", ())
    return replace(graph, networks=tuple(map(str, nodes))) if not graph.networks and nodes else graph


def _network_group(definition: StudyDefinition) -> Mapping[str, Sequence[object]]:
    group: Mapping[str, Sequence[object]] = json.loads(definition.settings).get("network", {})
    return group


def provenance(definition: StudyDefinition, trial: TrialRecord, study_uid: str | None) -> dict[str, str | int | float]:
    """Where a graph comes from: study, trial, values, data set, network, every setting, versions.

    ``trained.NAME`` is what the trial was trained with: device, mode, versions, commits. Other versions are of this
    process, which exports it.

    ``value`` is that of the search, by the goal, which is named unless it is the ensemble's accuracy.
    ``confirmed_mean`` and what goes with it are there where it was trained again.
    """
    trained = {f"trained.{name}": text for name, text in trial.run.items()}
    result = {"value": trial.value, **confirmation(trial), **trained}
    return origin(definition, trial.number, trial.graph, study_uid, result)


def origin(
    definition: StudyDefinition,
    number: int,
    graph: GraphSpec,
    study_uid: str | None,
    result: Mapping[str, str | int | float] = MappingProxyType({}),
) -> dict[str, str | int | float]:
    """As :func:`provenance`, of a trial that may not be complete; a given trial's number is negative."""
    networks = graph.networks
    trained: dict[str, str | int | float] = {}
    if networks:  # That the search chose: where the settings have others, these were trained.
        trained["config.network.name"] = networks_label(networks)
        if len(set(networks)) > 1:
            trained["config.network.nodes"] = json.dumps(networks)
    return {
        "study": definition.name,
        **({} if study_uid is None else {"study_uid": study_uid}),
        "trial": number,
        **result,
        "graph_key": graph_key(graph),
        "dataset": definition.dataset,
        "dataset_checksum": definition.dataset_checksum,
        "network": networks_label(networks) or definition.network,
        "seed": definition.seed,
        "pruner": definition.pruner,
        **({} if definition.prune_from == 1 else {"prune_from": definition.prune_from}),
        "sampler": definition.sampler,
        **({} if definition.goal == DEFAULT_GOAL else {"goal": definition.goal}),
        **({} if definition.precision is None else {"precision": definition.precision}),
        **flatten("config", json.loads(definition.settings)),
        **trained,
        "kdhpc_version": __version__,
        "torch_version": version("torch"),
        "optuna_version": version("optuna"),
    }


def confirmation(trial: TrialRecord) -> dict[str, int | float]:
    """What a trial's graph was confirmed to be, by names for tables; empty: it was not."""
    known = {} if trial.confirmed is None else asdict(trial.confirmed)
    return {f"confirmed_{name}": value for name, value in known.items() if value is not None}


def _tell_about_others(name: str, folder: Path, study_uid: str) -> None:
    """Name the graphs there of another study of this name, which was deleted: they stay, but for the best one."""
    others = [path for path in sorted(folder.glob(f"{name}-trial*.json")) if _study_uid(path) not in (None, study_uid)]
    if others:
        _LOG.warning("of another study of this name, now deleted: %s", ", ".join(map(str, others)))


def _study_uid(path: Path) -> str | None:
    """Of the study that a graph comes from; None: its file does not say."""
    try:
        uid = read_stored(path).provenance.get("study_uid")
    except (GraphError, StorageError):
        return None
    return uid if isinstance(uid, str) else None


def _export(
    definition: StudyDefinition, trial: TrialRecord, stem: Path, study_uid: str | None, *, draw: bool
) -> ExportedGraph:
    graph, svg, png = (stem.with_name(f"{stem.name}.{ending}") for ending in ("json", "svg", "png"))
    named = named_graph(definition, trial.graph)
    write_graph(graph, named, provenance(definition, trial, study_uid), definition.plugins)
    if not draw:
        return ExportedGraph(graph=graph, svg=None, png=None)
    from kdhpc.graph.drawing import draw_graph  # Matplotlib is large, and not everywhere that graphs are exported.

    # Networks that may differ are written at their nodes.
    what = definition.dataset if named.networks else f"{definition.network}, {definition.dataset}"
    title = f"{definition.name}, trial {trial.number} ({what})"
    value = trial.value if trial.confirmed is None else trial.confirmed.mean
    if definition.goal == DEFAULT_GOAL:
        draw_graph(named, (svg, png), title=title, ensemble_accuracy=value)
    else:
        draw_graph(named, (svg, png), title=f"{title}, {GOALS[definition.goal].named(value)}")
    return ExportedGraph(graph=graph, svg=svg, png=png)


def _write_table(definition: StudyDefinition, trials: Sequence[TrialRecord], folder: Path) -> Path:
    path = folder / f"{definition.name}-best.csv"
    names = [parameter.name for parameter in definition.space.parameters()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "trial", "value", *_CONFIRMED, "graph_key", *names])
    for rank, trial in enumerate(trials, start=1):
        row = definition.space.to_parameters(trial.graph)
        known = confirmation(trial)
        confirmed = (known.get(name, "") for name in _CONFIRMED)
        parameters = (row.get(name, "") for name in names)
        writer.writerow([rank, trial.number, trial.value, *confirmed, graph_key(trial.graph), *parameters])
    write_whole(path, text.getvalue())
    return path
