"""Trainings compared with another one in pairs, over the seeds that both have. Free of torch.

Runs of one seed see the same images in the same order, and many of them start from the same weights. What a seed brings
is in both runs of a pair, and leaves their difference: so the interval is that of the paired t-test.
"""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdhpc.config import compatibility
from kdhpc.errors import ConfigError, UsageError, nearest
from kdhpc.final.found import FoundResult
from kdhpc.final.measures import second_checksums, settle, value_of
from kdhpc.final.result import FinalResult
from kdhpc.final.settings import read_settings
from kdhpc.final.student_t import two_sided_t
from kdhpc.final.summary import grouped

CONFIDENCE = 0.95
"""Of the intervals."""
_NOT_COMPARED = ("graph", "teacher.", "run.", "device.")
"""Settings that begin so are of what is compared, or are compared by the results."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of one measure: the training's less that of the other, in the measure's unit."""

    pairs: tuple[int, ...]
    """Seeds that both have a value for."""
    mean: float | None
    """Mean over the pairs; None: there is no pair."""
    low: float | None
    """Lower end of the 95 % interval of the mean; None: a single pair has none."""
    high: float | None
    """Its upper end."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A training compared with the one that was asked for, or why it is not."""

    training: str
    """Name of the training."""
    against: str
    """Name of the other one; empty: there is none to compare it with."""
    differences: dict[str, Difference]
    """By the name of a measure, see `kdhpc.final.measures`; empty if it is not compared."""
    diverged_seeds: tuple[int, ...]
    """Seeds of the training that diverged, so that they are in no pair."""
    against_diverged_seeds: tuple[int, ...]
    """The same of the other one."""
    also_differs: tuple[str, ...]
    """Other settings that differ, in words: learning rate and the like."""
    refused: str = ""
    """Why it is not compared; empty: it is."""


def compare(found: Sequence[FoundResult], against: str, names: Sequence[str]) -> tuple[Comparison, ...]:
    """Compare all trainings with one.

    A graph may have been trained several times: on other data, with other networks, epochs or numbers of nodes. Each
    training is compared with the one that is like it. Data set, network, epochs, images and precision must be the same;
    of several with other numbers of nodes, the one with the same number is taken.

    Args:
        found: Results of any trainings.
        against: The name of a training, or of a graph: a preset, another method, or a file's name without its ending.
        names: Of measures.

    Returns:
        One for each other training, in their order.

    Raises:
        UsageError: there is no such training, or an AUROC does not say against which data set.
        ConfigError: there is no other training, or none that it can be compared with.
    """
    results = [one.result for one in found]
    names = settle(names, results)
    settings = {(one.result.name, one.result.settings): _comparable_settings(one) for one in found}
    groups = grouped(results)
    # The name of a training goes before that of a graph.
    chosen = [group for group in groups if against == group[0].name]
    chosen = chosen or [group for group in groups if against in _names(group[0])]
    if not chosen:
        known = {name for group in groups for name in _names(group[0])}
        raise UsageError(f"no training and no graph is called {against!r}: {nearest(against, known)}")
    others = [group for group in groups if group not in chosen]
    if not others:
        raise ConfigError(f"all trainings here are of {against}: name a folder that also has others, or another graph")
    compared = tuple(_compare(group, chosen, names, settings) for group in others)
    if all(one.refused for one in compared):
        raise ConfigError(f"nothing can be compared with {against}: {'; '.join(told(one) for one in compared[:3])}")
    return compared


def told(comparison: Comparison) -> str:
    """Why a training is not compared, with its name."""
    return f"{comparison.training} {comparison.refused}"


_AllSettings = dict[tuple[str, str], dict[str, object]]


def _compare(
    group: list[FinalResult], chosen: list[list[FinalResult]], names: Sequence[str], settings: _AllSettings
) -> Comparison:
    first = group[0]
    alike = [other for other in chosen if not _unlike(first, other[0])]
    if len(alike) > 1:
        alike = [other for other in alike if other[0].num_nodes == first.num_nodes] or alike
    if len(alike) == 1:
        other = alike[0]
        was, now = (settings[one.name, one.settings] for one in (other[0], first))
        also = compatibility.differences(was, now) if was and now else {}
        if "dataset.checksum" not in also:
            return Comparison(
                training=first.name,
                against=other[0].name,
                differences={name: _difference(name, group, other) for name in names},
                diverged_seeds=_diverged(group),
                against_diverged_seeds=_diverged(other),
                also_differs=tuple(f"{key} {_shown(new)}, there {_shown(old)}" for key, (old, new) in also.items()),
            )
        refused = f"was trained with other images of {first.dataset} than {other[0].name}"
    elif alike:
        refused = f"could be compared with {', '.join(sorted(other[0].name for other in alike))}: name one of them"
    else:
        nearest_one = min(chosen, key=lambda other: len(_unlike(first, other[0])))[0]
        refused = f"is not like {nearest_one.name}: {', '.join(_unlike(first, nearest_one))}"
    return Comparison(
        training=first.name,
        against="",
        differences={},
        diverged_seeds=_diverged(group),
        against_diverged_seeds=(),
        also_differs=(),
        refused=refused,
    )


def _names(result: FinalResult) -> set[str]:
    """What a training may be called by."""
    return {result.name, result.graph, Path(result.graph).stem}


def _unlike(result: FinalResult, other: FinalResult) -> list[str]:
    """What forbids to compare two trainings, in words."""

    def facts(one: FinalResult) -> dict[str, object]:
        return {
            "data set": one.dataset,
            "network": one.network,
            "epochs": one.epochs,
            "training images": one.training_images,
            "scored on": one.scored_on,
            "precision": one.precision if result.precision and other.precision else None,
        }

    ours, theirs = facts(result), facts(other)
    return [f"{name} {ours[name]}, there {theirs[name]}" for name in ours if ours[name] != theirs[name]]


def _difference(name: str, group: list[FinalResult], other: list[FinalResult]) -> Difference:
    is_same_second = len(second_checksums(name, [*group, *other])) <= 1
    ours, theirs = (_by_seed(name, results) if is_same_second else {} for results in (group, other))
    pairs = tuple(sorted(ours.keys() & theirs.keys()))
    values = [ours[seed] - theirs[seed] for seed in pairs]
    if len(values) < 2:
        return Difference(pairs=pairs, mean=values[0] if values else None, low=None, high=None)
    mean = statistics.fmean(values)
    margin = two_sided_t(CONFIDENCE, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Difference(pairs=pairs, mean=mean, low=mean - margin, high=mean + margin)


def _by_seed(name: str, results: Iterable[FinalResult]) -> dict[int, float]:
    values = {result.seed: value_of(name, result) for result in results}
    return {seed: value for seed, value in values.items() if value is not None}


def _diverged(group: list[FinalResult]) -> tuple[int, ...]:
    return tuple(result.seed for result in group if result.divergence is not None)


def _comparable_settings(found: FoundResult) -> dict[str, object]:
    """Of how it was trained, not of what; empty: the run does not say."""
    settings = read_settings(found.paths.settings) or {}
    own = {key: json.loads(value) for key, value in settings.items()}
    return {key: value for key, value in own.items() if not key.startswith(_NOT_COMPARED)}


def _shown(value: object) -> str:
    return compatibility.NOT_THERE if value is compatibility.NOT_THERE else json.dumps(value)
