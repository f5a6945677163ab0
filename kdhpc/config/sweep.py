"""Sweeps: every combination of the comma-separated values of overrides, here or as jobs by Hydra's multirun."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from kdhpc.config.compose import list_groups, register_root, store_dataset, store_lists, store_network
from kdhpc.config.document import parse_config
from kdhpc.config.folders import config_dirs, config_names
from kdhpc.config.launchers import PREFIX
from kdhpc.config.network_lists import name_lists, with_networks_of_graph
from kdhpc.config.networks import is_foreign
from kdhpc.config.overrides import read_overrides
from kdhpc.config.own_datasets import readable_groups
from kdhpc.config.renamed import renamed_overrides
from kdhpc.config.schema import TrainConfig
from kdhpc.errors import ConfigError

SweepTask = Callable[[TrainConfig, int], str | None]
"""Does one combination, given its config and its number from 0; returns what went wrong, None: nothing."""


def combinations(overrides: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Overrides without choices, for every combination of the choices, as Hydra's multirun makes them.

    Raises:
        ConfigError: an override that cannot be read.
    """
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line or ""]
        for override in read_overrides(TrainConfig, overrides)
    ]
    return tuple(itertools.product(*choices))


def launch_sweep(
    task: SweepTask,
    overrides: Sequence[str],
    *,
    launcher: str,
    at_once: int | None,
    folder: Path,
    config_dir: Path | None,
) -> tuple[str | None, ...]:
    """Run every combination as a job of its own, and wait for all of them.

    Args:
        task: Importable, with all that it holds: jobs unpickle it.
        overrides: As for :func:`kdhpc.config.compose.compose_train`, and ``hydra.launcher.*`` that
            :func:`kdhpc.config.launchers.check_launcher` has let pass.
        launcher: A config of ``hydra/launcher``.
        at_once: Combinations that run at the same time; None: the launcher's own affair.
        folder: Hydra's and the jobs' files.
        config_dir: See :func:`kdhpc.config.folders.config_dirs`.

    Returns:
        What the task returned for each combination.
    """
    folders = config_dirs(config_dir)
    words, lists = name_lists(_with_networks_of_graphs(renamed_overrides(overrides)))
    one_of_all = [word for word in combinations(words)[0] if not word.startswith("hydra")]
    groups = list_groups(TrainConfig, "train", one_of_all, lists, config_dir=config_dir)
    register_root(TrainConfig, "train", folders, {})
    chosen = {word for each in combinations(words) for word in each}
    for name in (word.removeprefix("network=") for word in chosen if word.startswith("network=")):
        if is_foreign(name):
            store_network(name)
    store_lists(groups)
    for name, group in readable_groups().items():
        if name not in config_names("dataset", config_dir):
            store_dataset(name, group)
    GlobalHydra.instance().clear()
    # The launchers know more keys than their configs list.
    words = [f"++{word}" if word.startswith(PREFIX) else word for word in words]
    settings = [f"hydra/launcher={launcher}", f"hydra.sweep.dir='{folder}'", "hydra/job_logging=none"]
    if at_once is not None:
        settings.append(f"hydra.sweeper.max_batch_size={at_once}")
    with initialize_config_dir(str(folders[0]), job_name="kdhpc-train", version_base="1.3"):
        batches = GlobalHydra.instance().hydra.multirun(  # type: ignore[union-attr]  # it has just been initialised
            config_name="root",
            task_function=_Job(task),
            overrides=[*settings, *words],
            with_log_configuration=False,
        )
    return tuple(_outcome(job) for batch in batches for job in batch)


def _with_networks_of_graphs(overrides: Sequence[str]) -> list[str]:
    """Overrides with the networks that the files of all graphs name.

    Raises:
        ConfigError: they differ.
    """
    added = {tuple(with_networks_of_graph(choice)[len(choice) :]) for choice in combinations(overrides)}
    if len(added) > 1:
        raise ConfigError(
            "the graphs of this sweep have different networks: leave --launcher out, or train each graph by a command"
        )
    return [*overrides, *added.pop()]


@dataclass(frozen=True)
class _Job:
    """What Hydra calls in a job."""

    task: SweepTask

    def __call__(self, node: DictConfig) -> str | None:
        config = parse_config(TrainConfig, OmegaConf.to_container(node, resolve=True, throw_on_missing=True))
        return self.task(config, HydraConfig.get().job.num)


def _outcome(job: JobReturn) -> str | None:
    returned: str | None = job.return_value
    return returned
