"""From a file of ``configs/reproduce`` to a plan. Needs neither data nor torch."""

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdhpc.config.folders import config_dirs
from kdhpc.config.mappings import read_mapping
from kdhpc.config.number_lists import parse_numbers
from kdhpc.config.paths import RunPaths, StudyPaths, runs_root
from kdhpc.errors import ConfigError, UsageError, nearest
from kdhpc.reproduce.datasets import Standing
from kdhpc.reproduce.overrides import Overrides
from kdhpc.reproduce.plan import MEASURES, Cell, Load, Plan, Report, Step
from kdhpc.reproduce.table import read_published
from kdhpc.reproduce.templates import Names, each_of, text, words

NAMES = ("table1", "figure3", "table2", "figure6", "figure7", "figure8", "table3", "table4")
"""What can be reproduced, in the paper's order."""
SCALES = ("paper", "miniature")
_GROUP = "reproduce"
_BEST_OF = "best of "
_JOB_NAME = "hydra.launcher.name="
_LONGEST_LABEL = 20
_DATASET = "dataset="
_RUN = re.compile(r"\btrain/([^/\s]+)/seed(\d+)\b")
"""The folder of one training."""
_SLA_ROTATIONS = 4
"""SLA trains on each image in four rotations."""
_KEYS = {
    "file": {"title", "published", "paper", "miniature", "searches", "trainings", "reports"},
    "searches": {"each", "study", "network", "nodes", "overrides", "after"},
    "trainings": {
        "each",
        "name",
        "graph",
        "nodes",
        "teacher",
        "teacher_node",
        "seeds",
        "overrides",
        "row",
        "cells",
        "network",
        "after",
    },
    "reports": {"each", "words", "of", "folder", "row"},
}
_SAID_ELSEWHERE = ("run.name", "run.seed", "run.graph", "study.trials")
"""Keys that an entry has other words for."""
_NEEDED = {"searches": ("study",), "trainings": ("name", "graph"), "reports": ("words",)}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for."""

    scale: str
    """``paper`` or ``miniature``."""
    standing: Standing
    """Which data sets take part."""
    overrides: Overrides
    """For searches and trainings."""
    launcher: str
    """As ``kdhpc train --launcher``."""
    config_dir: Path | None
    """The user's own configs."""


def read_plan(name: str, wanted: Wanted) -> Plan:
    """Read what reproduces a table or a figure.

    Raises:
        UsageError: nothing is called so.
        ConfigError: the file is not there, or something in it is wrong; the message names it.
    """
    if name not in NAMES:
        raise UsageError(f"nothing to reproduce is called {name!r}: {nearest(name, (*NAMES, 'all'))}")
    return _Reader(name, wanted).plan()


def shared_names(scale: str, config_dir: Path | None) -> Names:
    """What all files share in a scale: ``scales.yaml``.

    Raises:
        ConfigError: it is not there, or is no such file.
    """
    path, document = _document("scales", config_dir)
    found = document.get(scale)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: has no mapping {scale!r}")
    return found


class _Reader:
    def __init__(self, name: str, wanted: Wanted) -> None:
        self.name, self.wanted = name, wanted
        self.path, self.document = _document(name, wanted.config_dir)
        self._check_keys("file", self.document)
        self.steps: dict[tuple[str, str], Step] = {}
        self.cells: list[Cell] = []
        self.reports: list[Report] = []
        own = self.document.get(wanted.scale)
        if not isinstance(own, dict):
            raise ConfigError(f"{self.path}: has no mapping {wanted.scale!r}, the values of this scale")
        self.names: dict[str, object] = {
            **shared_names(wanted.scale, wanted.config_dir),
            **wanted.standing.names,
            **own,
            "scale": wanted.scale,
            "runs": str(shortest(runs_root())),
        }

    def plan(self) -> Plan:
        for kind, add in (("trainings", self._training), ("searches", self._search), ("reports", self._report)):
            entries = self.document.get(kind) or []
            if not isinstance(entries, list):
                raise ConfigError(f"{self.path}: {kind} is no list")
            for entry in entries:
                if not isinstance(entry, dict):
                    raise ConfigError(f"{self.path}: {kind}: {entry!r} is no mapping")
                self._check_keys(kind, entry)
                lists = entry.get("each", [])
                for one in each_of(lists, self.names, origin=str(self.path)):
                    add(entry, self._with(entry, one))
        published = self.document.get("published", "")
        if published:
            read_published(self._text(published, self.names))
        if not self.steps:
            raise ConfigError(f"{self.path}: has neither searches nor trainings")
        return Plan(
            name=self.name,
            title=" ".join(self._text(self.document.get("title") or self.name, {}).split()),
            scale=self.wanted.scale,
            data_note=self.wanted.standing.note,
            published=str(published),
            steps=self._ordered(),
            cells=tuple(self.cells),
            reports=tuple(self.reports),
        )

    def _with(self, entry: Mapping[str, object], one: Mapping[str, object]) -> dict[str, object]:
        """All names of one step: those of the file, of its combination, and its own network and nodes."""
        names = {**self.names, **one}
        names |= {key: entry[key] for key in ("network", "nodes") if key in entry and entry[key] != f"{{{key}}}"}
        data = self._text("{data}", names) if "data" in names else ""
        names["smaller"] = list(self.wanted.standing.smaller(data) if data else ())
        names["label"] = _label(data)
        return names

    def _text(self, value: object, names: Names) -> str:
        return text(value, names, origin=str(self.path))

    def _words(self, value: object, names: Names) -> tuple[str, ...]:
        return words(value, names, origin=str(self.path))

    def _number(self, key: str, names: Names, default: int | None = None) -> int:
        """A whole number above 0; None: it has to be there."""
        said = self._text(f"{{{key}}}" if default is None else names.get(key, default), names)
        if not said.isdecimal() or int(said) < 1:
            raise ConfigError(f"{self.path}: {key}: {said!r} is not allowed: a whole number, 1 or more")
        return int(said)

    def _overrides(self, entry: Mapping[str, object], names: Names) -> tuple[str, ...]:
        """The entry's own."""
        found = self._words(entry.get("overrides", []), names)
        for word in found:
            key, is_one, _ = word.lstrip("+~").partition("=")
            if word.startswith("-") or not (is_one or word.startswith("~")) or key in _SAID_ELSEWHERE:
                raise ConfigError(
                    f"{self.path}: overrides: {word!r} is not allowed: write key=value, other keys than "
                    f"{', '.join(_SAID_ELSEWHERE)}"
                )
        return found

    def _data(self, overrides: Sequence[str], names: Names) -> str:
        """The data set of a step: the last one that it names, else ``{data}``."""
        given = [word.removeprefix(_DATASET) for word in overrides if word.startswith(_DATASET)]
        found = given[-1] if given else self._text("{data}", names)
        if not found:
            raise ConfigError(f"{self.path}: data: '' is the name of no data set")
        return found

    def _config_dir(self) -> tuple[str, ...]:
        return () if self.wanted.config_dir is None else ("--config-dir", str(self.wanted.config_dir))

    def _search(self, entry: Mapping[str, object], names: Names) -> None:
        study = self._text(entry["study"], names)
        overrides = _last_of_each((*self._overrides(entry, names), *self.wanted.overrides.of_searches))
        on_slurm = self.wanted.launcher == "submitit_slurm"
        trials = self.wanted.overrides.trials or self._number("trials", names)
        start = ("launch", "--wait") if on_slurm else ("search",)
        self._add(
            Step(
                kind="search",
                name=study,
                data=self._data(overrides, names),
                commands=(
                    (*start, "--study", study, "--trials", str(trials), *self._config_dir(), *overrides),
                    ("export-best", "--study", study),
                ),
                overrides=overrides,
                needs=(*self._data_needs(names), *self._after(entry, names)),
                load=self._load(names, "search_images", trials),
            )
        )

    def _training(self, entry: Mapping[str, object], names: Names) -> None:
        name = self._text(entry["name"], names)
        graph, needs = self._text(entry["graph"], names), [*self._data_needs(names), *self._after(entry, names)]
        how = ["train", "--graph", graph]
        if graph.startswith(_BEST_OF):
            study = graph.removeprefix(_BEST_OF)
            how[-1] = str(shortest(StudyPaths.of(study).export / f"{study}-best.json"))
            needs.append(("search", study))
        elif graph not in ("student", "sla", "frskd"):
            how += ["--nodes", str(self._number("nodes", names, 1))]
        if (graph == "student") != ("teacher" in entry) or (graph != "student" and "teacher_node" in entry):
            raise ConfigError(f"{self.path}: {name}: graph: student has a teacher, and no other graph has")
        seeds = self._text(entry.get("seeds", "{seeds}"), names)
        if "teacher" in entry:
            teacher = self._text(entry["teacher"], names)
            needs.append(("train", teacher))
            how += ["--teacher", str(shortest(RunPaths.of(teacher, _seeds(seeds, self.path)[0]).root))]
        if "teacher_node" in entry:
            how += ["--teacher-node", self._text(entry["teacher_node"], names)]
        if self.wanted.launcher != "none":
            how += ["--launcher", self.wanted.launcher]
        overrides = _last_of_each((*self._overrides(entry, names), *self.wanted.overrides.of_trainings))
        if self.wanted.launcher == "submitit_slurm" and not any(word.startswith(_JOB_NAME) for word in overrides):
            overrides = (*overrides, f"{_JOB_NAME}{name}")
        overrides = (f"run.name={name}", *overrides)
        parsed = _seeds(seeds, self.path)
        self._add(
            Step(
                kind="train",
                name=name,
                data=self._data(overrides, names),
                commands=((*how, "--seeds", seeds, *self._config_dir(), *overrides),),
                overrides=overrides,
                graph="" if graph.startswith(_BEST_OF) else graph,
                needs=tuple(needs),
                seeds=parsed,
                load=self._load(names, "images", len(parsed), times=_SLA_ROTATIONS if graph == "sla" else 1),
            )
        )
        cells = entry.get("cells", {})
        if not isinstance(cells, dict):
            raise ConfigError(f"{self.path}: cells: {cells!r} is no mapping of columns to measures")
        for column, measure in cells.items():
            if measure not in MEASURES:
                raise ConfigError(f"{self.path}: cells: unknown measure {measure!r}: {nearest(str(measure), MEASURES)}")
            row = self._text(entry.get("row", name), names)
            self.cells.append(
                Cell(row=row, column=self._text(column, names), measure=measure, source=name, seeds=parsed)
            )

    def _report(self, entry: Mapping[str, object], names: Names) -> None:
        # Without `of`: of all trainings of this file.
        trained = tuple(name for kind, name in self.steps if kind == "train")
        of = self._words(entry["of"], names) if "of" in entry else trained
        folder = self._text(entry.get("folder", ""), names)
        if Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise ConfigError(f"{self.path}: folder: {folder!r} is not allowed: a folder below the table's own")
        given = self._words(entry["words"], names)
        if any(word.startswith("--o") for word in given):
            raise ConfigError(f"{self.path}: words: --out is not allowed: give folder, below the table's own")
        folders = [str(shortest(self._shown_of(name, one_run=given[:1] == ("attention",)))) for name in of]
        self.reports.append(
            Report(
                words=(*given, *folders),
                folder=folder,
                needs=tuple(("train", name) for name in of),
            )
        )
        if "row" in entry:
            self.cells.append(
                Cell(row=self._text(entry["row"], names), column="correlation", measure="correlation", source=folder)
            )

    def _shown_of(self, name: str, *, one_run: bool) -> Path:
        """The folder of a training that a report shows: of all its seeds, or of the first."""
        step = self.steps.get(("train", name))
        first = RunPaths.of(name, step.seeds[0] if step else 0).root
        return first if one_run else first.parent

    def _after(self, entry: Mapping[str, object], names: Names) -> tuple[tuple[str, str], ...]:
        return tuple(("train", name) for name in self._words(entry.get("after", []), names))

    def _data_needs(self, names: Names) -> tuple[tuple[str, str], ...]:
        data = self._text("{data}", names) if "data" in names else ""
        step = self.wanted.standing.preparing(data)
        if step is None:
            return ()
        self.steps.setdefault(step.key, step)
        return (step.key,)

    def _load(self, names: Names, images: str, trainings: int, *, times: int = 1) -> Load:
        by_data = names.get(images)
        data = self._text("{data}", names)
        num = by_data.get(data, by_data.get("any")) if isinstance(by_data, dict) else None
        if not isinstance(num, int):
            raise ConfigError(f"{self.path}: {images!r} of this scale has no number for {data!r}")
        return Load(
            network=self._text("{network}", names),
            num_nodes=self._number("nodes", names, 1),
            images=num,
            times=times,
            epochs=self._number("epochs", names),
            trainings=trainings,
        )

    def _add(self, step: Step) -> None:
        if self.steps.setdefault(step.key, step) != step:
            raise ConfigError(f"{self.path}: two different steps are called {step.name!r}")

    def _ordered(self) -> tuple[Step, ...]:
        """Each step after what it needs."""
        order: dict[tuple[str, str], Step] = {}

        def place(key: tuple[str, str], path: tuple[tuple[str, str], ...]) -> None:
            if key in path:
                raise ConfigError(f"{self.path}: {key[1]!r} needs itself")
            if key not in self.steps:
                raise ConfigError(f"{self.path}: nothing makes the {key[0]} {key[1]!r} that {path[-1][1]!r} needs")
            for need in self.steps[key].needs:
                if need not in order:
                    place(need, (*path, key))
            order.setdefault(key, self.steps[key])

        for key in self.steps:
            place(key, ())
        for report in self.reports:
            for need in report.needs:
                if need not in order:
                    raise ConfigError(f"{self.path}: nothing makes the training {need[1]!r} that a report shows")
        for step in order.values():
            self._check_seeds(step)
        return tuple(order.values())

    def _check_seeds(self, step: Step) -> None:
        """Whether each run of this plan that a step names, as a teacher's or for its weights, is trained in it."""
        for name, seed in _RUN.findall(" ".join(itertools.chain.from_iterable(step.commands))):
            other = self.steps.get(("train", name))
            if other is not None and int(seed) not in other.seeds:
                raise ConfigError(f"{self.path}: {step.name!r} needs seed {seed} of {name!r}, which is not trained")

    def _check_keys(self, kind: str, entry: Mapping[str, object]) -> None:
        for key in _NEEDED.get(kind, ()):
            if key not in entry:
                raise ConfigError(f"{self.path}: an entry of {kind} has no {key!r}")
        for key, value in entry.items():
            if key not in _KEYS[kind]:
                raise ConfigError(f"{self.path}: unknown key {key!r}: {nearest(str(key), _KEYS[kind])}")
            if value is None and kind != "file":
                raise ConfigError(f"{self.path}: an entry of {kind} has nothing for {key!r}")


def _document(name: str, config_dir: Path | None) -> tuple[Path, Mapping[str, object]]:
    found = [folder / _GROUP / f"{name}.yaml" for folder in config_dirs(config_dir)]
    path = next((path for path in found if path.is_file()), None)
    if path is None:
        raise ConfigError(f"there is no {_GROUP}/{name}.yaml in {', '.join(str(one.parents[1]) for one in found)}")
    return path, read_mapping(path, f"{_GROUP}/{name}.yaml")


def _last_of_each(overrides: Sequence[str]) -> tuple[str, ...]:
    """Overrides without those whose key is given again later: they would not count, and commands would say so."""
    keys = [word.partition("=")[0] for word in overrides]
    return tuple(word for at, word in enumerate(overrides) if keys[at] not in keys[at + 1 :])


def _label(data: str) -> str:
    """A data set's name as it stands in the names of trainings, which must not get too long."""
    if len(data) <= _LONGEST_LABEL:
        return data
    return f"{data[: _LONGEST_LABEL - 7]}-{hashlib.sha256(data.encode()).hexdigest()[:6]}"


def _seeds(given: str, path: Path) -> tuple[int, ...]:
    try:
        return parse_numbers(given, noun="seed")
    except ValueError as exc:
        raise ConfigError(f"{path}: seeds: {given} is not allowed: {exc}") from exc


def shortest(path: Path) -> Path:
    """A path as short as it can be from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
