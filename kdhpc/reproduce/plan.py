"""What reproducing a table takes: steps, each a command of kdhpc with what it needs, and where its numbers go."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdhpc.config.paths import RunPaths, packed_dir

MEASURES = ("ensemble", "node", "node1")
"""What a cell shows of a training: the ensemble's accuracy, the mean of its nodes, or the first node's."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a step trains, for estimates."""

    network: str
    """Network of every node."""
    num_nodes: int
    """M."""
    images: int
    """Images that train, in an epoch."""
    times: int = 1
    """How often each of them is trained on in an epoch: SLA rotates them."""
    epochs: int
    """Length of the schedule."""
    trainings: int
    """Seeds, or trials of a search."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One or more commands that belong together, and are given one after the other."""

    kind: str
    """``prepare``, ``search`` or ``train``."""
    name: str
    """Of the data set, the study or the training (``run.name``)."""
    commands: tuple[tuple[str, ...], ...]
    """The words after ``kdhpc``."""
    data: str
    """The prepared data set that it reads."""
    overrides: tuple[str, ...] = ()
    """Config overrides among those words."""
    graph: str = ""
    """Of a training: the graph's name or file, or a method; empty: it is that of a search."""
    needs: tuple[tuple[str, str], ...] = ()
    """Kinds and names of the steps that must be done before."""
    seeds: tuple[int, ...] = ()
    """Of a training."""
    load: Load | None = None
    """What it trains; None: nothing."""

    @property
    def key(self) -> tuple[str, str]:
        """Its kind and name, by which others need it."""
        return self.kind, self.name

    def is_done(self) -> bool:
        """Whether its results are there. A search has none of its own: whoever needs its graph says whether it runs."""
        if self.kind == "prepare":
            return (packed_dir(self.name) / "manifest.json").is_file()
        return self.kind == "train" and not self._open_seeds()

    def left(self) -> "Step":
        """It with the seeds alone that are not done, for estimates."""
        if self.kind != "train" or self.load is None:
            return self
        seeds = self._open_seeds()
        return replace(self, seeds=seeds, load=replace(self.load, trainings=len(seeds)))

    def _open_seeds(self) -> tuple[int, ...]:
        return tuple(seed for seed in self.seeds if not RunPaths.of(self.name, seed).result.is_file())


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Where a number of the table comes from."""

    row: str
    """The row's name, as in the published table."""
    column: str
    """The column's name, as there."""
    measure: str
    """One of ``MEASURES``, or ``correlation`` of a report of pairs."""
    source: str
    """The training, or for ``correlation`` the report's folder below the table's own."""
    seeds: tuple[int, ...] = ()
    """Of the training."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A figure by `kdhpc report`."""

    words: tuple[str, ...]
    """After ``kdhpc report``, without ``--out``."""
    folder: str
    """Below the table's own folder; empty: that folder."""
    needs: tuple[tuple[str, str], ...]
    """The trainings that it shows."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that reproduces one table or figure."""

    name: str
    """``table2``, ..."""
    title: str
    """For people."""
    scale: str
    """``paper`` or ``miniature``."""
    data_note: str
    """Which data sets stand for the paper's."""
    published: str
    """The table in ``published.yaml``; empty: the paper gives no numbers."""
    steps: tuple[Step, ...]
    """In an order in which each stands after what it needs."""
    cells: tuple[Cell, ...]
    """Of its table."""
    reports: tuple[Report, ...]
    """Its figures."""


def all_steps(plans: Sequence[Plan]) -> tuple[Step, ...]:
    """The steps of several plans, those that they share once, in order."""
    steps: dict[tuple[str, str], Step] = {}
    for plan in plans:
        for step in plan.steps:
            steps.setdefault(step.key, step)
    return tuple(steps.values())


def open_steps(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps that are left to do, in order: what is not done, and what that needs."""
    by_key = {step.key: step for step in steps}
    left: set[tuple[str, str]] = set()

    def want(step: Step) -> None:
        if step.key in left or step.is_done():
            return
        left.add(step.key)
        for need in step.needs:
            want(by_key[need])

    for step in steps:
        if step.kind == "train":
            want(step)
    return tuple(step for step in steps if step.key in left)
