"""Results of several seeds as the paper's tables give them: mean and standard deviation."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdhpc.errors import DataError
from kdhpc.final.found import find_results, result_folders
from kdhpc.final.result import FinalResult, SearchedWith


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and standard deviation of some values."""

    mean: float
    """Arithmetic mean, in percent."""
    std: float | None
    """Standard deviation, in percent; None for a single value under ddof 1."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All seeds of one training with equal settings."""

    name: str
    """Name of the training."""
    dataset: str
    """Packed data set."""
    network: str
    """Network of every node; of different ones their names with ``+`` between them."""
    graph: str
    """Preset or file name."""
    num_nodes: int
    """M, B of ONE, or 1 of a student."""
    epochs: int
    """Length of the schedule."""
    training_images: int
    """Images that the networks learnt from."""
    scored_on: str
    """``test`` or ``validation`` images."""
    seeds: tuple[int, ...]
    """The seeds that are averaged."""
    diverged_seeds: tuple[int, ...]
    """The seeds that diverged, so that they have no accuracy."""
    node: Spread | None
    """Spread over seeds of the mean accuracy of a run's nodes; None: all seeds diverged."""
    ensemble: Spread | None
    """Spread over seeds of the ensemble's accuracy; None: all seeds diverged."""
    num_parameters: int
    """Number of parameters of all networks together."""
    precision: str | None
    """Precision that the networks ran in; None: it is not known."""
    searched: SearchedWith
    """What the graph was searched with."""
    teacher: str
    """Name and seed of a student's teacher; empty for other methods."""
    teacher_accuracy: float | None
    """Top-1 accuracy of the teacher's ensemble, in percent."""
    devices: tuple[str, ...] = ()
    """Names of the processors and GPUs that the seeds were trained on, each once."""
    versions: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """What the seeds were made with, as in their results: the different versions of each thing, by its name."""


def summarise_folder(folder: Path, *, ddof: int = 1) -> tuple[Summary, ...]:
    """Summaries of all results below a folder. Results that cannot be read are left out, with a warning.

    Raises:
        DataError: there is no result that can be read.
    """
    found = find_results([folder])
    if not found:
        if result_folders(folder):
            raise DataError(f"no result of a final training in {folder} can be read: see above")
        what = (
            f"{folder} holds no result of a final training"
            if folder.is_dir()
            else f"there is no folder {folder}, and so no result in it"
        )
        raise DataError(f"{what}: make one with `kdhpc train`, or name another folder")
    return summarise((one.result for one in found), ddof=ddof)


def summarise(results: Iterable[FinalResult], *, ddof: int = 1) -> tuple[Summary, ...]:
    """Group results by settings and average over seeds.

    Args:
        results: Results of any trainings.
        ddof: Delta degrees of freedom, as in NumPy's ``std``: the sum of squares is divided by the number of values
            minus this. 1 gives the sample's standard deviation, 0 the population's.

    Source: paper section 5.1: mean and standard deviation of five trials.
    """
    groups: dict[tuple[str, str], list[FinalResult]] = {}
    for result in results:
        groups.setdefault((result.name, result.settings), []).append(result)
    return tuple(_summary(sorted(group, key=lambda result: result.seed), ddof) for group in groups.values())


def _summary(group: list[FinalResult], ddof: int) -> Summary:
    first = group[0]
    nodes = [statistics.fmean(result.node_accuracies) for result in group if result.node_accuracies is not None]
    ensembles = [result.ensemble_accuracy for result in group if result.ensemble_accuracy is not None]
    return Summary(
        name=first.name,
        dataset=first.dataset,
        network=first.network,
        graph=first.graph,
        num_nodes=first.num_nodes,
        epochs=first.epochs,
        training_images=first.training_images,
        scored_on=first.scored_on,
        seeds=tuple(result.seed for result in group if result.divergence is None),
        diverged_seeds=tuple(result.seed for result in group if result.divergence is not None),
        node=_spread(nodes, ddof),
        ensemble=_spread(ensembles, ddof),
        num_parameters=first.num_parameters,
        precision=first.precision,
        searched=first.searched,
        teacher=first.teacher,
        teacher_accuracy=first.teacher_accuracy,
        devices=tuple(dict.fromkeys(result.device for result in group)),
        versions=_versions(group),
    )


def _versions(group: list[FinalResult]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for result in group:
        for name, version in result.versions.items():
            found.setdefault(name, {})[version] = None
    return {name: tuple(versions) for name, versions in found.items()}


def _spread(values: list[float], ddof: int) -> Spread | None:
    return spread(values, ddof=ddof) if values else None


def spread(values: Sequence[float], *, ddof: int = 1) -> Spread:
    """Mean and standard deviation of values, at least one; ``ddof`` as for :func:`summarise`."""
    mean = statistics.fmean(values)
    if ddof == 0:
        return Spread(mean=mean, std=statistics.pstdev(values))
    return Spread(mean=mean, std=statistics.stdev(values) if len(values) > 1 else None)
