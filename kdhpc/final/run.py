"""A final training before it starts: all that it is made of, and whatever is wrong with it."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from kdhpc.config.paths import RunPaths, packed_dir
from kdhpc.config.schema import TrainConfig
from kdhpc.data.packed import PackedDataset
from kdhpc.errors import ConfigError, DataError, KdhpcError
from kdhpc.final.assembly import check
from kdhpc.final.finished import open_finished
from kdhpc.final.found import seed_folders
from kdhpc.final.result import read_result
from kdhpc.final.settings import (
    Settings,
    check_same_settings,
    differences,
    digest,
    knows_precision,
    read_settings,
    run_settings,
)
from kdhpc.methods.load import load_method
from kdhpc.methods.method import Method, settled_network
from kdhpc.training.checkpoint import CheckpointKey
from kdhpc.training.runtime import Runtime, resolve_runtime

_LONGEST_NETWORK = 100


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a final training is."""

    config: TrainConfig
    """What to train."""
    method: Method
    """A graph, or what is trained instead of one."""
    packed: PackedDataset
    """Its images."""
    settings: Settings
    """What its result depends on, but for the seed."""
    name: str
    """Of the training: all seeds of one name have the same settings."""
    paths: RunPaths
    """Where it writes."""
    runtime: Runtime | None
    """Where and how this process trains it; None: another machine does."""

    @property
    def here(self) -> Runtime:
        """Where and how this process trains it."""
        assert self.runtime is not None, "another machine trains it"
        return self.runtime

    @property
    def identity(self) -> CheckpointKey:
        """Whose checkpoints it may go on from."""
        seed = self.config.run.seed
        return CheckpointKey(
            study=self.name, number=seed, graph_key=self.method.key, seed=seed, settings=digest(self.settings)
        )


def open_run(
    config: TrainConfig,
    *,
    elsewhere: bool = False,
    method: Method | None = None,
    packed: PackedDataset | None = None,
) -> Run:
    """A training, checked as far as can be without beginning it.

    Args:
        config: What to train.
        elsewhere: Another machine will train it: this one's devices have no say, and the precision that they would
            give is left out of the comparison with what was begun.
        method: What is trained, where it is made in Python; None: what ``run.graph`` names.
        packed: Images that are in memory; None: those that ``dataset.name`` names.

    Raises:
        ConfigError: something cannot be meant or does not fit, the device is not there, or the run's folder holds one
            with other settings, and the message says which differ.
        DataError: the data set is not prepared, or the result of a teacher cannot be read.
        GraphError: the graph does not exist, is damaged, or does not fit.
        NetworkError: the network does not exist or does not fit, or pretrained weights or a teacher do not.
        StorageError: the file system refuses.
    """
    method = method or load_method(config, open_finished)
    config = dataclasses.replace(config, network=settled_network(method, config))
    packed = packed or PackedDataset.open(packed_dir(config.dataset.name))
    check(config, method, packed)
    runtime = None if elsewhere else resolve_runtime(config.device)
    name = _name(config, method)
    run = Run(
        config=config,
        method=method,
        packed=packed,
        settings=run_settings(
            config,
            graph_key=method.key,
            dataset_checksum=packed.checksum,
            precision=None if runtime is None else runtime.precision,
            method_settings=method.settings,
        ),
        name=name,
        paths=RunPaths.of(name, config.run.seed),
        runtime=runtime,
    )
    # The mean over seeds of one name would mean nothing otherwise.
    for folder in seed_folders(run.paths.root.parent):
        _check_begun(run.settings, RunPaths(folder))
    if method.teacher is not None:
        method.teacher.check_weights()
    return run


def open_all(configs: Sequence[TrainConfig], *, elsewhere: bool = False) -> tuple[Run, ...]:
    """The trainings of a sweep, all of them checked before the first one starts.

    Args:
        configs: One for each combination.
        elsewhere: As for :func:`open_run`.

    Raises:
        KdhpcError: as :func:`open_run`, of the first that is wrong, by name; or two have one name and other settings.
    """
    if len(configs) == 1:
        return (open_run(configs[0], elsewhere=elsewhere),)
    runs: list[Run] = []
    first: dict[str, Run] = {}
    for config in configs:
        try:
            run = open_run(config, elsewhere=elsewhere)
        except KdhpcError as exc:
            raise type(exc)(f"{describe(config)}: {exc}") from exc
        other = first.setdefault(run.name, run)
        if different := differences(other.settings, run.settings):
            raise ConfigError(
                f"{describe(other.config)} and {describe(config)} are both called {run.name} ({'; '.join(different)}): "
                "give each a name of its own with run.name=NAME"
            )
        runs.append(run)
    return tuple(runs)


def _check_begun(settings: Settings, paths: RunPaths) -> None:
    """Refuse a folder that was begun with something else, as far as it says.

    After a power cut ``settings.json`` may be damaged. A result has the digest of what it was trained with, and so has
    a checkpoint, which is compared where it is read.
    """
    begun = read_settings(paths.settings)
    if begun is not None:
        check_same_settings(settings, begun, paths.root)
        return
    try:
        result = read_result(paths.result)
    except DataError:
        return
    if knows_precision(settings) and result.precision is not None and result.settings != digest(settings):
        raise ConfigError(
            f"{paths.root} was trained with other settings, says its result.json: move it away, or give this training "
            "a name with run.name=NAME"
        )


def describe(config: TrainConfig) -> str:
    """A training in a few words, for messages."""
    return f"{config.run.graph} on {config.dataset.name} with {config.network.name}, seed {config.run.seed}"


def _name(config: TrainConfig, method: Method) -> str:
    """Unless it is given: data set, network, graph, and what it is scored on if not tests."""
    if config.run.name is not None:
        return config.run.name
    search = "-search" if config.run.split == "search" else ""
    return f"{config.dataset.name}-{_short(config.network.name)}-{method.label}{search}"


def _short(network: str) -> str:
    """Names of many networks are cut, so that a folder can have them; a digest tells them apart."""
    if len(network) <= _LONGEST_NETWORK:
        return network
    digest = hashlib.sha256(network.encode()).hexdigest()[:8]
    return f"{network[:_LONGEST_NETWORK]}-{digest}"
