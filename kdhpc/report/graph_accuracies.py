"""The graph of a final training, with the accuracies of its nodes and of their ensemble over seeds. Free of torch."""

import csv
import io
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from kdhpc.config.paths import RunPaths
from kdhpc.errors import ConfigError, DataError
from kdhpc.final.found import find_results, holds_result, unfinished_folders, why_no_result
from kdhpc.final.result import FinalResult, read_result
from kdhpc.final.summary import Spread, spread
from kdhpc.graph.serial import read_stored, to_document
from kdhpc.graph.spec import GraphSpec
from kdhpc.methods.registry import GRAPH

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GraphAccuracies:
    """A graph, and how accurate a training with it has become."""

    result: FinalResult
    """Of the first seed: what all seeds share."""
    graph: GraphSpec
    """What was trained; it names the networks of its nodes where they differ."""
    seeds: tuple[int, ...]
    """Those that have accuracies, rising."""
    diverged_seeds: tuple[int, ...]
    """Those that have none."""
    nodes: tuple[tuple[float, ...], ...]
    """Top-1 accuracy of each node in percent, for each of the seeds."""
    ensemble: tuple[float, ...]
    """Top-1 accuracy of the ensemble in percent, for each of the seeds."""

    @property
    def label(self) -> str:
        """Short name, for folders: of several seeds that of the training alone."""
        name = self.result.name
        return name if len(self.seeds) > 1 else f"{name}-seed{self.seeds[0]}"

    @property
    def rows(self) -> tuple[tuple[str, str, tuple[float, ...]], ...]:
        """Each node, then the ensemble: its name, its network (of the ensemble none) and its accuracies."""
        networks = self.graph.networks or (self.result.network,) * self.graph.num_nodes
        nodes = enumerate(zip(networks, self.nodes, strict=True), start=1)
        return (
            *((f"node {number}", network, found) for number, (network, found) in nodes),
            ("ensemble", "", self.ensemble),
        )


def read_graph_accuracies(folder: Path, *, plugin_remedy: str) -> GraphAccuracies:
    """The graph of a training, and its accuracies over its seeds.

    Warns of seeds that are not done.

    Args:
        folder: Of one run, ``seed<k>``; or above the runs of one training.
        plugin_remedy: What to do about plug-ins that are not loaded, see `kdhpc.graph.serial.parse_graph`.

    Raises:
        ConfigError: no run there is done and has accuracies, or its method has no graph, or there are several
            trainings.
        DataError: a result cannot be read.
        GraphError: the graph cannot be read, or needs a plug-in that is not loaded.
        StorageError: the file system refuses.
    """
    paths = RunPaths(folder)
    if paths.result.is_file():
        read_result(paths.result)  # Of one run, what is wrong with its result is an error and no warning.
    elif not holds_result(folder):
        raise ConfigError(f"{folder} {why_no_result(paths)}: give a runs/train/NAME, or a seed of it, that is done")
    found = sorted(find_results([folder]), key=lambda one: one.result.seed)
    if not found:
        raise DataError(f"{folder}: no result of a final training can be read: see above")
    results = [one.result for one in found]
    names = list(dict.fromkeys(result.name for result in results))
    if len({(result.name, result.settings) for result in results}) > 1:
        what = f"{len(names)} trainings ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
        several = what if len(names) > 1 else f"trainings of {names[0]} with different settings"
        raise ConfigError(f"{folder} holds {several}: give the folder of one")
    for result in results:
        if result.method != GRAPH:
            raise ConfigError(
                f"{folder} was trained by {result.method}, which has no graph: see `kdhpc results {folder}`"
            )
    if begun := unfinished_folders(folder):
        _LOG.warning("left out, not done: %s", ", ".join(map(str, begun)))
    scored = [one for one in found if one.result.divergence is None]
    if not scored:
        raise ConfigError(f"{folder} {results[0].divergence}: it has no accuracy to draw, give a training that has")
    first = scored[0]
    if not first.paths.graph.is_file():
        raise ConfigError(f"{folder} is not whole: {first.paths.graph} is not there: train it again")
    graph = read_stored(first.paths.graph, plugin_remedy=plugin_remedy).graph
    if graph.num_nodes != first.result.num_nodes:
        raise DataError(
            f"{first.paths.graph} has {graph.num_nodes} nodes, its result {first.result.num_nodes}: train again"
        )
    accuracies = [one.result.node_accuracies or () for one in scored]
    return GraphAccuracies(
        result=first.result,
        graph=replace(graph, networks=first.result.networks or ()),
        seeds=tuple(one.result.seed for one in scored),
        diverged_seeds=tuple(result.seed for result in results if result.divergence is not None),
        nodes=tuple(zip(*accuracies, strict=True)),
        ensemble=tuple(one.result.ensemble_accuracy for one in scored if one.result.ensemble_accuracy is not None),
    )


def caption(report: GraphAccuracies) -> str:
    """What a picture's numbers are."""
    result = report.result
    nodes = "" if report.graph.networks else f"{result.network}, "
    if len(report.seeds) > 1:
        seeds = f", mean ± standard deviation over {len(report.seeds)} seeds"
    else:
        seeds = f", seed {report.seeds[0]}"
    lost = len(report.diverged_seeds)
    diverged = f"; {lost} more seed{'s' if lost > 1 else ''} diverged" if lost else ""
    return f"{nodes}top-1 in percent on the {result.scored_on} images of {result.dataset}{seeds}{diverged}"


def document(report: GraphAccuracies) -> dict[str, object]:
    """All numbers and the graph, for JSON."""
    result = report.result
    return {
        "training": result.name,
        "dataset": result.dataset,
        "network": result.network,
        "graph_name": result.graph,
        "graph_key": result.graph_key,
        "epochs": result.epochs,
        "scored_on": result.scored_on,
        "seeds": report.seeds,
        "diverged_seeds": report.diverged_seeds,
        "ddof": 1,
        "nodes": [
            {"node": number, "network": network, **_numbers(found)}
            for number, (_, network, found) in enumerate(report.rows[:-1], start=1)
        ],
        "ensemble": _numbers(report.ensemble),
        "graph": to_document(report.graph),
    }


def accuracies_table(report: GraphAccuracies) -> str:
    """All numbers as CSV: a row for each node and one for the ensemble, a column for each seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["who", "network", "mean", "std", *(f"seed{seed}" for seed in report.seeds)])
    for name, network, found in report.rows:
        numbers = spread(found)
        writer.writerow([name, network, numbers.mean, numbers.std, *found])
    return text.getvalue()


def _numbers(found: tuple[float, ...]) -> dict[str, object]:
    numbers: Spread = spread(found)
    return {"mean": numbers.mean, "std": numbers.std, "accuracies": found}
