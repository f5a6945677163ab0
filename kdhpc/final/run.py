"""Opening a final training before it starts: what it consists of, and a check of everything that may be wrong."""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdhpc.config.meaning import warn_of_doubtful
from kdhpc.config.networks import network_folder
from kdhpc.config.paths import RunPaths, packed_dir
from kdhpc.config.schema import DeviceConfig, TrainConfig
from kdhpc.data.fitting import doubt_normalisation
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
    precision_of,
    read_settings,
    run_settings,
)
from kdhpc.methods.load import load_method
from kdhpc.methods.method import Method, settled_network
from kdhpc.tracking.names import refuse_absent
from kdhpc.training.checkpoint import CheckpointKey
from kdhpc.training.device import fixed_precision
from kdhpc.training.runtime import Runtime, resolve_runtime

_LOG = logging.getLogger(__name__)
_LONGEST_NETWORK = 100


@dataclass(frozen=True, kw_only=True)
class Run:
    """A final training with one seed, not started yet."""

    config: TrainConfig
    """Its config."""
    method: Method
    """What is trained: a graph, or another method."""
    packed: PackedDataset
    """Its data set."""
    settings: Settings
    """All settings that its result depends on, except the seed."""
    name: str
    """Name of the training. All seeds of one name have the same settings."""
    paths: RunPaths
    """Paths of the run."""
    runtime: Runtime | None
    """Device, precision and mode on this machine; None: another machine trains it."""

    @property
    def here(self) -> Runtime:
        """The runtime of a run that this process trains."""
        assert self.runtime is not None, "another machine trains it"
        return self.runtime

    @property
    def identity(self) -> CheckpointKey:
        """The key that a checkpoint must have for this run to go on from it."""
        seed = self.config.run.seed
        return CheckpointKey(
            study=self.name, number=seed, graph_key=self.method.key, seed=seed, settings=digest(self.settings)
        )

    def warn(self) -> None:
        """Log what a user may not expect."""
        warn_of_doubtful(self.config)
        if doubt := doubt_normalisation(self.config.dataset, self.packed.manifest.image_shape[2]):
            _LOG.warning(doubt)
        self.method.warn_about(self.config, self.packed.checksum)


def open_run(
    config: TrainConfig,
    *,
    elsewhere: bool = False,
    method: Method | None = None,
    packed: PackedDataset | None = None,
) -> Run:
    """Open a training, and check everything that can be checked without starting it.

    Args:
        config: What to train.
        elsewhere: Whether another machine will train it. Then this machine's devices are not looked at, and the
            precision, which depends on them, is not compared with that of a run that was begun.
        method: The method, if it was made in Python; None: the one that ``run.graph`` names.
        packed: The data set, if it is in memory; None: the one that ``dataset.name`` names.

    Raises:
        ConfigError: settings contradict each other or do not fit the data set, the device does not exist, or the run's
            folder has a run with other settings; the message says which differ.
        DataError: the data set is not prepared, or the result of a teacher cannot be read.
        GraphError: the graph does not exist, is damaged, or does not fit.
        NetworkError: the network does not exist or does not fit, or pretrained weights or a teacher do not.
        StorageError: the file system refuses.
    """
    method = method or load_method(config, open_finished)
    config = dataclasses.replace(config, network=settled_network(method, config))
    packed = packed or PackedDataset.open(packed_dir(config.dataset.name))
    check(config, method, packed)
    name = training_name(config, method)
    paths = RunPaths.of(name, config.run.seed)
    runtime = None if elsewhere else _runtime(config.device, paths.root.parent)
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
        paths=paths,
        runtime=runtime,
    )
    # The mean over seeds of one name would mean nothing otherwise.
    for folder in seed_folders(paths.root.parent):
        _check_begun(run.settings, RunPaths(folder))
    if method.teacher is not None:
        method.teacher.check_weights()
    return run


def open_all(configs: Sequence[TrainConfig], *, elsewhere: bool = False) -> tuple[Run, ...]:
    """Open all trainings of a sweep, and check them before the first one starts.

    Args:
        configs: The configs, one for each training.
        elsewhere: As for :func:`open_run`.

    Raises:
        KdhpcError: as :func:`open_run`, for the first training that is wrong, which the message names; or two trainings
            have the same name and different settings, or a tracker is not installed.
    """
    for config in configs:
        refuse_absent(config.tracking)
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


def _runtime(config: DeviceConfig, folder: Path) -> Runtime:
    """What a device config means here, for a run in a folder: in the precision of its other seeds, if it names none.

    Raises:
        ConfigError: this machine's device does not exist, or cannot compute in that precision.
    """
    runtime = resolve_runtime(config)
    begun = (_begun_precision(RunPaths(seed)) for seed in seed_folders(folder))
    precision = None if config.precision != "auto" else next(filter(None, begun), None)
    if precision is None:
        return runtime
    try:
        fixed = fixed_precision(config, runtime.device, precision)
    except ConfigError as exc:
        raise ConfigError(f"{folder} was begun in {precision}, and cannot go on here: {exc}") from exc
    return resolve_runtime(fixed, device=runtime.device)


def _begun_precision(paths: RunPaths) -> str | None:
    """What a run was begun in; None: it was not, or that was not written down."""
    if (begun := read_settings(paths.settings)) is not None:
        return precision_of(begun)
    try:
        return read_result(paths.result).precision
    except DataError:
        return None


def _check_begun(settings: Settings, paths: RunPaths) -> None:
    """Refuse a folder that was begun with other settings.

    They are in ``settings.json``, which a power cut may damage. Then the digest of settings in the result is compared
    instead. A checkpoint has such a digest as well, which is compared when the checkpoint is read.
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


def training_name(config: TrainConfig, method: Method) -> str:
    """Name of a training: ``run.name``, or a name made of data set, network, graph and, if not official, the split."""
    if config.run.name is not None:
        return config.run.name
    search = "-search" if config.run.split == "search" else ""
    network = _short(network_folder(config.network.name))
    return f"{config.dataset.name}-{network}-{method.label}{search}"


def _short(network: str) -> str:
    """Names of many networks are cut, so that a folder can have them; a digest tells them apart."""
    if len(network) <= _LONGEST_NETWORK:
        return network
    digest = hashlib.sha256(network.encode()).hexdigest()[:8]
    return f"{network[:_LONGEST_NETWORK]}-{digest}"
