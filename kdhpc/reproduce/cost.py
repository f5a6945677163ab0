"""What a plan costs: trainings, hours, disk. By speeds that runs here have had, else by those that the file gives."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdhpc.config.paths import RunPaths
from kdhpc.errors import ConfigError, DataError, StorageError, nearest
from kdhpc.final.result import read_result
from kdhpc.reproduce.plan import Load, Step
from kdhpc.reproduce.settings import Schedule

_SURVIVES = 0.5
"""Of the trials that are scored at a rung, the share that goes on: the others are below the median."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a network trains."""

    images_per_s: float
    """Images that one network trains on in a second."""
    megabytes: float
    """Of its weights."""
    is_measured: bool
    """By runs that are done here."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of some steps."""

    searches: int
    """Number of searches."""
    trials: int
    """Of all searches."""
    trainings: int
    """Final trainings."""
    hours: float
    """Of one machine, as the speeds name it."""
    gigabytes: float
    """Weights that stay."""
    measured: tuple[str, ...]
    """The networks whose speed was measured here."""


def mean_epochs(epochs: int, prune_from: int | None = 1) -> float:
    """Epochs that a trial of a search trains on average, if half of the trials end at each rung 1, 2, 4, ...

    The last epoch prunes nothing, nor do epochs before ``prune_from`` (``study.prune_from``; None: none does).
    """
    prune_from = epochs if prune_from is None else prune_from
    reached, total, alive = 0, 0.0, 1.0
    rung = 1
    while rung < epochs:
        total += alive * (rung - reached)
        alive *= _SURVIVES if rung >= prune_from else 1
        reached, rung = rung, rung * 2
    return total + alive * (epochs - reached)


def speeds(names: Mapping[str, object], done: Sequence[Step], *, at_once: int, origin: str) -> dict[str, Speed]:
    """Speeds of a machine by network: those of the file, and in their place what trainings of the plan have measured.

    Args:
        names: What ``scales.yaml`` gives.
        done: Trainings; those that are finished are read.
        at_once: How many trainings the machine does at the same time, each at the speed that it measured.
        origin: The file, for messages.

    Raises:
        ConfigError: the file has none, or one is no number.
    """
    given = names.get("networks")
    if not isinstance(given, dict):
        raise ConfigError(f"{origin}: has no mapping 'networks' for this scale")
    try:
        found = {
            str(network): Speed(
                images_per_s=float(entry["images_per_s"]), megabytes=float(entry["megabytes"]), is_measured=False
            )
            for network, entry in given.items()
        }
    except (KeyError, TypeError, ValueError) as exc:
        raise ConfigError(f"{origin}: networks: each needs images_per_s and megabytes") from exc
    if slow := [network for network, speed in found.items() if not speed.images_per_s > 0]:
        raise ConfigError(f"{origin}: networks: images_per_s of {slow[0]} is not above 0")
    measured: dict[str, list[float]] = {}
    for step in done:
        measured.setdefault(step.load.network if step.load else "", []).extend(_measured(step))
    for network, values in measured.items():
        if values and network in found:
            found[network] = Speed(
                images_per_s=at_once * statistics.median(values), megabytes=found[network].megabytes, is_measured=True
            )
    return found


def cost(
    steps: Sequence[Step],
    known: Mapping[str, Speed],
    schedules: Mapping[tuple[str, str], Schedule],
    *,
    at_once: int,
    origin: str,
) -> Cost:
    """What steps cost. Starts of processes, and reports, are not counted.

    Args:
        steps: What is to be done.
        known: Speed of each network.
        schedules: Of searches and trainings, by their keys.
        at_once: Trainings that the machine does at the same time: workers of a search, whose hours are limited.
        origin: The file that the speeds are from, for messages.

    Raises:
        ConfigError: a network has no speed in the file.
    """
    seconds, megabytes, used = 0.0, 0.0, dict[str, None]()
    searches = [step for step in steps if step.kind == "search"]
    trained = [step for step in steps if step.kind == "train"]
    for step in steps:
        if step.load is None:
            continue
        load = step.load
        if load.network not in known:
            raise ConfigError(f"{origin}: networks has no {load.network!r}: {nearest(load.network, known)}")
        speed = known[load.network]
        if speed.is_measured:
            used[load.network] = None
        schedule = schedules[step.key]
        needed = _node_images(step, load, schedule) / speed.images_per_s
        seconds += needed if schedule.most_hours is None else min(needed, 3600 * schedule.most_hours / at_once)
        megabytes += load.num_nodes * load.trainings * speed.megabytes if step.kind == "train" else 0
    return Cost(
        searches=len(searches),
        trials=sum(step.load.trainings for step in searches if step.load),
        trainings=sum(len(step.seeds) for step in trained),
        hours=seconds / 3600,
        gigabytes=megabytes / 1000,
        measured=tuple(used),
    )


def _node_images(step: Step, load: Load, schedule: Schedule) -> float:
    epochs: float = schedule.epochs
    if step.kind == "search":
        epochs = mean_epochs(schedule.epochs, schedule.prune_from)
    images = load.images if schedule.images is None else schedule.images
    return load.trainings * load.num_nodes * images * load.times * epochs


def _measured(step: Step) -> list[float]:
    """Images a second and network, of each finished run of a training."""
    found, times = list[float](), 1 if step.load is None else step.load.times
    for seed in step.seeds:
        try:
            result = read_result(RunPaths.of(step.name, seed).result)
        except (DataError, StorageError):
            continue
        if result.seconds and result.divergence is None:
            found.append(times * result.training_images * result.epochs * result.num_nodes / result.seconds)
    return found
