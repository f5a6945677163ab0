"""Results of several seeds as the paper's tables give them: mean and standard deviation."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdhpc.errors import DataError
from kdhpc.final.found import FoundResult, find_results, with_results
from kdhpc.final.measures import measures_of, second_checksums, value_of
from kdhpc.final.result import FinalResult, SearchedWith

_OTHERWISE = "make one with `kdhpc train`, or name another folder"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and standard deviation of some values."""

    mean: float
    """Arithmetic mean; of accuracies in percent."""
    std: float | None
    """Standard deviation, in the same unit; None for a single value under ddof 1."""


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
    scores: dict[str, Spread | None] = field(default_factory=dict, hash=False)
    """Spread over seeds of each score, by its name in `kdhpc.final.measures`; None: some seed does not have it."""
    unscored_seeds: tuple[int, ...] = ()
    """The seeds that are averaged and have no scores, as they are from before there were any."""

    def measure(self, name: str) -> Spread | None:
        """An accuracy or a score by its name in `kdhpc.final.measures`; None: there is none for all seeds."""
        return {"ensemble": self.ensemble, "node": self.node, **self.scores}.get(name)


def summarise_folder(*folders: Path, ddof: int = 1) -> tuple[Summary, ...]:
    """Summaries of all results below some folders. Results that cannot be read are left out, with a warning.

    Raises:
        DataError: as `results_below`.
    """
    return summarise((one.result for one in results_below(folders)), ddof=ddof)


def results_below(folders: Sequence[Path]) -> tuple[FoundResult, ...]:
    """All results below some folders. Those that cannot be read are left out, with a warning, as are empty folders.

    Raises:
        DataError: a folder does not exist, or there is no result that can be read below any.
    """
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}, and so no result in it: {_OTHERWISE}")
    full = with_results(folders)
    if not full:
        raise DataError(f"{', '.join(map(str, folders))} holds no result of a final training: {_OTHERWISE}")
    found = find_results(full)
    if not found:
        raise DataError(f"no result of a final training in {', '.join(map(str, folders))} can be read: see above")
    return found


def grouped(results: Iterable[FinalResult]) -> list[list[FinalResult]]:
    """Results of the same name and settings together, ordered by seed."""
    groups: dict[tuple[str, str], list[FinalResult]] = {}
    for result in results:
        groups.setdefault((result.name, result.settings), []).append(result)
    return [sorted(group, key=lambda result: result.seed) for group in groups.values()]


def summarise(results: Iterable[FinalResult], *, ddof: int = 1) -> tuple[Summary, ...]:
    """Group results by settings and average over seeds.

    Args:
        results: Results of any trainings.
        ddof: Delta degrees of freedom, as in NumPy's ``std``: the sum of squares is divided by the number of values
            minus this. 1 gives the sample's standard deviation, 0 the population's.

    Source: paper section 5.1: mean and standard deviation of five trials.
    """
    return tuple(_summary(group, ddof) for group in grouped(results))


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
        scores={name: _score(name, group, ddof) for name in measures_of(group)},
        unscored_seeds=tuple(result.seed for result in group if result.divergence is None and result.scores is None),
    )


def _score(name: str, group: list[FinalResult], ddof: int) -> Spread | None:
    """A mean over some of the seeds would stand beside accuracies of all of them; there is none then."""
    values = [value_of(name, result) for result in group if result.divergence is None]
    known = [value for value in values if value is not None]
    is_whole = len(known) == len(values) and len(second_checksums(name, group)) <= 1
    return _spread(known, ddof) if is_whole else None


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
