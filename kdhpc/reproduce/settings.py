"""The configs of a plan's steps, before anything starts: a wrong word is told at once, and done runs are compared."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdhpc.config.compose import compose_search, compose_train
from kdhpc.config.folders import config_names
from kdhpc.config.launchers import check_launcher
from kdhpc.config.own_datasets import packed_names
from kdhpc.config.paths import RunPaths
from kdhpc.config.schema import SearchConfig, TrainConfig
from kdhpc.errors import ConfigError, KdhpcError
from kdhpc.final.result import read_result
from kdhpc.final.settings import config_settings, differences, read_settings
from kdhpc.graph.presets import PRESETS, load_graph
from kdhpc.methods.registry import named_methods, refuse_other_options
from kdhpc.reproduce.plan import Step

_MADE_BY_OTHERS = ("objective.pretrained", "objective.unlearned")
"""Keys whose values are files that other steps make, and those that need such a file."""
_ALIKE = ("dataset=", "network=")
_ANY_DATASET = "fashion_mnist"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a step trains."""

    epochs: int
    """Of one training, or of a trial that comes to the end."""
    prune_from: int | None
    """The first epoch after which a search ends trials; None: it ends none."""
    images: int | None
    """Images that train, if ``dataset.subset`` says so; None: those of the data set."""
    most_hours: float | None
    """Of a search (``study.max_gpu_hours``); None: no limit."""


def schedules(
    steps: Sequence[Step], config_dir: Path | None, *, launcher: str = "none"
) -> dict[tuple[str, str], Schedule]:
    """The schedules of searches and trainings, by their keys; with it, all words of their commands are checked.

    A data set that is not prepared stands for one that is, and files that other steps make are left out.

    Args:
        steps: Of one or several plans.
        config_dir: The user's own configs.
        launcher: Of trainings, as ``kdhpc train --launcher``.

    Raises:
        ConfigError: a word of a step is wrong, or its graph is none.
    """
    found: dict[tuple[str, str], Schedule] = {}
    composed: dict[tuple[str, ...], SearchConfig | TrainConfig] = {}
    datasets = {*config_names("dataset", config_dir), *packed_names()}
    for step in steps:
        if step.kind not in ("search", "train"):
            continue
        words = [word for word in _words(step) if not word.startswith(_MADE_BY_OTHERS)]
        # Composing takes a tenth of a second: once for each set of settings, whatever the data set and the network.
        kind = (step.kind, *(word for word in words if not word.startswith((*_ALIKE, "run.name="))))
        try:
            if step.kind == "train":
                _check_jobs([word for word in step.overrides if _is_of_jobs(word)], launcher, config_dir)
            if kind not in composed:
                composed[kind] = config = _composed(step, [_known(word, datasets) for word in words], config_dir)
                if isinstance(config, TrainConfig):
                    refuse_other_options(config.run)
            if step.kind == "train" and step.graph and step.graph not in named_methods():
                load_graph(step.graph, step.load.num_nodes if step.load else None, other_names=named_methods())
        except KdhpcError as exc:
            raise ConfigError(f"{step.name}: {exc}") from exc
        found[step.key] = _schedule(composed[kind])
    return found


def refuse_other_settings(steps: Sequence[Step], config_dir: Path | None) -> None:
    """Refuse to take runs that are done for those of a plan if they were trained with other settings.

    Graphs are not compared: that of a search is not known before it is done.

    Raises:
        ConfigError: some run was trained otherwise; the message names the settings.
        DataError: a result cannot be read.
    """
    for step in steps:
        done = [paths for seed in step.seeds if (paths := RunPaths.of(step.name, seed)).result.is_file()]
        if not done:
            continue
        config = _composed(step, _words(step), config_dir)
        assert isinstance(config, TrainConfig)
        wanted = dict(config_settings(config))
        if config.device.precision != "auto":
            wanted["device.precision"] = json.dumps(config.device.precision)
        for paths in done:
            read_result(paths.result)
            begun = read_settings(paths.settings)
            if begun is None:  # They are lost; what needs them says so.
                continue
            known = {key: value for key, value in begun.items() if key in wanted}
            if different := differences(known, wanted):
                raise ConfigError(
                    f"{paths.root} is done with other settings ({'; '.join(different)}): give those again, or move "
                    f"{paths.root.parent} away"
                )


def _words(step: Step) -> list[str]:
    """What its config is composed of. The graph of a search is not known yet; presets are as good as each other."""
    words = [word for word in step.overrides if not _is_of_jobs(word)]
    if step.kind == "search":
        return words if any(word.startswith("study=") for word in words) else [f"study={step.name}", *words]
    return [f"run.graph={'independent' if step.graph in ('', *PRESETS) else step.graph}", *words]


def _is_of_jobs(word: str) -> bool:
    return word.lstrip("+").startswith("hydra")


def _check_jobs(words: Sequence[str], launcher: str, config_dir: Path | None) -> None:
    if launcher != "none":
        check_launcher(words, launcher, config_dir)
    elif words:
        raise ConfigError(f"{words[0]} has no meaning without jobs: give --launcher submitit_slurm")


def _composed(step: Step, words: Sequence[str], config_dir: Path | None) -> SearchConfig | TrainConfig:
    return (compose_search if step.kind == "search" else compose_train)(words, config_dir=config_dir)


def _known(word: str, datasets: set[str]) -> str:
    key, _, value = word.partition("=")
    return f"dataset={_ANY_DATASET}" if key == "dataset" and value not in datasets else word


def _schedule(config: SearchConfig | TrainConfig) -> Schedule:
    epochs, images = config.training.epochs, config.dataset.subset
    if isinstance(config, TrainConfig):
        return Schedule(epochs=epochs, prune_from=None, images=images, most_hours=None)
    return Schedule(
        epochs=epochs,
        prune_from=None if config.study.pruner == "none" else config.study.prune_from,
        images=None if images is None else round(images * (1 - config.dataset.validation_fraction)),
        most_hours=config.study.max_gpu_hours,
    )
