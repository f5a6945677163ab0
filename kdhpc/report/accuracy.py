"""Ensemble accuracy, or a score, by the number of nodes or of parameters: final trainings as curves. Free of torch.

Trainings that agree in everything but their number of nodes form a family. A family is split into one curve, of the
trainings that are the only one with their number of nodes, and single points for all others.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from kdhpc.final.summary import Spread, Summary
from kdhpc.graph.presets import PRESETS
from kdhpc.methods.registry import named_methods

_LOG = logging.getLogger(__name__)
By = Literal["nodes", "parameters"]
"""The horizontal axis. ``nodes``: as in the paper's Fig. 3. ``parameters``: as in its Fig. 8."""
SEARCHED = "searched graph"
SINGLE = "single network"
_ALIASES = {"uniform:prob+": "dml"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a curve: all seeds of one training."""

    x: int
    """Number of nodes, or of the parameters of all networks together."""
    value: Spread
    """What is drawn: by default the accuracy of the ensemble, in percent."""
    num_seeds: int
    """Number of seeds that are done."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Trainings that differ in their number of nodes, or are single networks of growing size."""

    kind: str
    """What was trained: a preset, another method, ``searched graph (DATA SET)``, or the name of a graph's file."""
    label: str
    """The kind or a training's name, then whatever else distinguishes the curve from others of the chart."""
    points: tuple[Point, ...]
    """Ordered by x."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """The content of one picture."""

    dataset: str
    """Name of the packed data set."""
    scored_on: str
    """Which images accuracies are measured on: ``test`` or ``validation``."""
    by: By
    """The horizontal axis."""
    common: tuple[str, ...]
    """Settings that all curves have in common, in words."""
    curves: tuple[Curve, ...]
    """The curves, baselines first."""
    measure: str
    """The vertical axis: a name in `kdhpc.final.measures`."""


@dataclass(frozen=True, kw_only=True)
class _Family:
    """What all trainings of a curve have in common."""

    kind: str
    traits: tuple[str, ...]
    """Network, epochs, number of training images and precision, in words."""


_Part: TypeAlias = tuple[_Family, str, list[Summary]]
"""The trainings of a curve, with their family. The name is empty where the curve is named after its family."""


def chart_accuracies(summaries: Iterable[Summary], by: By, measure: str = "ensemble") -> tuple[Chart, ...]:
    """Make one chart for each data set and kind of images (test or validation) that accuracies were measured on.

    - Trainings form a curve if they have the same kind of graph, network, epochs, number of training images and
      precision. Searched graphs must also have been searched on the same data set.
    - If two trainings of a curve have the same number of nodes, each of them becomes a point with its own name.
    - A single network has no edges, so it is the first point of the curves of all presets.
    - By parameters, single networks of several sizes form one curve, in place of a curve for each.
    - Seeds that diverged are left out, with a warning that names them, and so are trainings without the measure.

    Args:
        summaries: Trainings, each with all of its seeds.
        by: The horizontal axis.
        measure: The vertical axis: a name in `kdhpc.final.measures`.

    Returns:
        The charts, ordered by data set.
    """
    charts: dict[tuple[str, str], list[Summary]] = {}
    for summary in summaries:
        if summary.diverged_seeds:
            seeds = ", ".join(map(str, summary.diverged_seeds))
            _LOG.warning("left out: %s diverged with seed %s", summary.name, seeds)
        if summary.ensemble is None:
            continue
        if summary.measure(measure) is None:
            _LOG.warning("left out: %s has no %s for all of its seeds", summary.name, measure)
            continue
        charts.setdefault((summary.dataset, summary.scored_on), []).append(summary)
    return tuple(
        _chart(dataset, scored_on, by, measure, charts[dataset, scored_on]) for dataset, scored_on in sorted(charts)
    )


def _chart(dataset: str, scored_on: str, by: By, measure: str, summaries: Sequence[Summary]) -> Chart:
    families: dict[_Family, list[Summary]] = {}
    for summary in summaries:
        families.setdefault(_family(summary), []).append(summary)
    found = [part for family, members in families.items() for part in _split_family(family, members)]
    found = [(family, name, _with_single(family, name, members, families)) for family, name, members in found]
    varying = _varying_traits([family.traits for family in families])
    if by == "parameters":
        singles = _single_networks(families)
        shown = {id(member) for _, _, members in singles for member in members}
        # Curves that have nothing else would hide behind it.
        found = [part for part in found if not shown.issuperset(map(id, part[2]))] + singles
    found.sort(key=lambda entry: (_rank(entry[0].kind), entry[0].kind, entry[0].traits, entry[1]))
    curves = [
        Curve(
            kind=family.kind,
            label=", ".join([name or family.kind, *_traits_at(family.traits, varying)]),
            points=_points(members, by, measure),
        )
        for family, name, members in found
    ]
    first = found[0][0].traits
    common = tuple(trait for index, trait in enumerate(first) if index not in varying and trait)
    return Chart(dataset=dataset, scored_on=scored_on, by=by, common=common, curves=tuple(curves), measure=measure)


def _family(summary: Summary) -> _Family:
    traits = (
        summary.network,
        f"{summary.epochs} epochs",
        f"{summary.training_images:,} training images",
        summary.precision or "",
    )
    return _Family(kind=_kind(summary), traits=traits)


def _kind(summary: Summary) -> str:
    if summary.graph in PRESETS or summary.graph in named_methods():
        return _ALIASES.get(summary.graph, summary.graph)
    return f"{SEARCHED} ({summary.searched.dataset})" if summary.searched.dataset else Path(summary.graph).stem


def _rank(kind: str) -> int:
    """Place of a kind in the legend: single networks and presets, then other methods, then all else."""
    order = [SINGLE, "independent", "dml", *sorted(set(PRESETS) - {"independent", "dml"}), *named_methods()]
    return order.index(kind) if kind in order else len(order)


def _split_family(family: _Family, members: Sequence[Summary]) -> list[_Part]:
    """Split a family into its curve and, by name, the trainings that share their number of nodes with another one."""
    counts = [member.num_nodes for member in members]
    curve = [member for member in members if counts.count(member.num_nodes) == 1]
    rest = [(family, member.name, [member]) for member in members if counts.count(member.num_nodes) > 1]
    return [(family, "", curve), *rest] if curve else rest


def _with_single(
    family: _Family, name: str, members: list[Summary], families: dict[_Family, list[Summary]]
) -> list[Summary]:
    """The trainings of a curve. A preset's curve also gets the single network that has the same traits."""
    if name or family.kind not in PRESETS or any(member.num_nodes == 1 for member in members):
        return members
    singles = [
        member
        for other, others in families.items()
        if other.kind in PRESETS and other.traits == family.traits
        for member in others
        if member.num_nodes == 1
    ]
    return [*singles, *members] if len(singles) == 1 else members


def _single_networks(families: dict[_Family, list[Summary]]) -> list[_Part]:
    """Curves of independent single networks that differ in size only."""
    alike: dict[tuple[str, ...], list[Summary]] = {}
    for family, members in families.items():
        if family.kind == "independent":
            alike.setdefault(family.traits[1:], []).extend(member for member in members if member.num_nodes == 1)
    return [
        (_Family(kind=SINGLE, traits=("", *traits)), _sizes(members), members)
        for traits, members in alike.items()
        if len({member.num_parameters for member in members}) > 1
    ]


def _sizes(members: Sequence[Summary]) -> str:
    """A name for a curve of single networks: the smallest and the largest."""
    ordered = sorted(members, key=lambda member: member.num_parameters)
    return f"{SINGLE} ({ordered[0].network} to {ordered[-1].network})"


def _varying_traits(all_traits: Sequence[tuple[str, ...]]) -> set[int]:
    """Indices of the traits in which some families differ."""
    return {index for index, values in enumerate(zip(*all_traits, strict=True)) if len(set(values) - {""}) > 1}


def _traits_at(traits: tuple[str, ...], indices: set[int]) -> list[str]:
    return [trait for index, trait in enumerate(traits) if index in indices and trait]


def _points(members: Sequence[Summary], by: By, measure: str) -> tuple[Point, ...]:
    points = [
        Point(
            x=member.num_nodes if by == "nodes" else member.num_parameters,
            value=value,
            num_seeds=len(member.seeds),
        )
        for member in members
        if (value := member.measure(measure)) is not None
    ]
    return tuple(sorted(points, key=lambda point: point.x))
