"""A search from this machine: the study made or opened, workers started and watched until the budget is done."""

import dataclasses
import json
import os
import time
from collections.abc import Callable

from kdhpc.cluster.local import LocalFleet
from kdhpc.cluster.manifest import freeze_launch
from kdhpc.cluster.signals import StopSignals
from kdhpc.config.document import parse_config, to_document
from kdhpc.config.paths import packed_dir
from kdhpc.config.schema import SearchConfig, check_study_name
from kdhpc.data.packed import PackedDataset
from kdhpc.data.split import search_split
from kdhpc.errors import ClusterError, StudyMismatchError
from kdhpc.graph.space import SearchSpace
from kdhpc.networks.names import check_network
from kdhpc.study.definition import StudyDefinition, differences
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from kdhpc.study.summary import StudyStatus, read_status

_POLL_S = 1.0


def prepare_study(name: str, config: SearchConfig, storage: Storage) -> SharedStudy:
    """Make the study, or open it if it was made with the same graph space, data split and seed; end its draining.

    Raises:
        ConfigError: the name cannot be used.
        DataError: the data set is not prepared, or cannot be split as asked.
        NetworkError: the network does not exist.
        StudyMismatchError: the study exists and was made with something else; the message says with what.
    """
    check_study_name(name)
    check_network(config.network, config.dataset.image_size)
    packed = PackedDataset.open(packed_dir(config.dataset.name))
    split = search_split(
        packed.train.labels,
        validation_fraction=config.dataset.validation_fraction,
        subset=config.dataset.subset,
        seed=config.dataset.split_seed,
    )
    definition = study_definition(name, config, packed.checksum)
    study = SharedStudy.create_or_open(storage, definition, split, target=config.study.trials)
    study.resume()
    return study


def study_definition(name: str, config: SearchConfig, dataset_checksum: str) -> StudyDefinition:
    """What a study with that config is made with."""
    settings = {part: to_document(getattr(config, part)) for part in ("dataset", "network", "objective", "training")}
    return StudyDefinition(
        name=name,
        space=search_space(config),
        seed=config.study.seed,
        pruner=config.study.pruner,
        sampler=config.study.sampler,
        max_attempts=config.study.max_attempts,
        last_epoch=config.training.epochs,
        network=config.network.name,
        dataset=config.dataset.name,
        dataset_checksum=dataset_checksum,
        settings=json.dumps(settings, sort_keys=True),
    )


def check_same_study(study: SharedStudy, config: SearchConfig) -> None:
    """Refuse to work on a study with another config than it was made with.

    Raises:
        StudyMismatchError: the message names each field that differs.
    """
    made_with = study.definition
    different = differences(made_with, study_definition(made_with.name, config, made_with.dataset_checksum))
    if different:
        raise StudyMismatchError(f"study {made_with.name!r} was made with something else: {'; '.join(different)}")


def search_space(config: SearchConfig) -> SearchSpace:
    """The graphs that a study draws from."""
    return SearchSpace(
        num_nodes=config.study.num_nodes,
        label_gates=config.study.label_gates,
        gates=config.study.gates,
        designs=config.study.designs,
        reject_unlearned=config.objective.unlearned == "reject",
    )


def stored_config(study: SharedStudy) -> SearchConfig:
    """The config that a study was made with; how it is run (device, worker, cluster) is as by default."""
    made_with = study.definition
    space = made_with.space
    document: dict[str, object] = {
        **{group: {} for group in ("device", "worker", "cluster")},
        **json.loads(made_with.settings),
        "study": {
            "num_nodes": space.num_nodes,
            "trials": study.progress().target,
            "seed": made_with.seed,
            "label_gates": [gate.value for gate in space.label_gates],
            "gates": [gate.value for gate in space.gates],
            "designs": [design.value for design in space.designs],
            "pruner": made_with.pruner,
            "sampler": made_with.sampler,
            "max_attempts": made_with.max_attempts,
        },
    }
    return parse_config(SearchConfig, document)


def search_locally(
    study: SharedStudy, config: SearchConfig, storage: Storage, show: Callable[[StudyStatus], None]
) -> bool:
    """Start workers on this machine and watch them until the budget is done or a signal comes.

    Workers that die are replaced, and their trials freed at once: this machine can see that their process is gone.

    Args:
        study: The study.
        config: Its config; ``cluster.workers`` processes share the CPU cores.
        storage: The database.
        show: Called with the status about once a second.

    Returns:
        True when every slot is done, False when stopped before.

    Raises:
        ClusterError: workers keep dying; the message names the last one's log.
    """
    name, workers = study.definition.name, config.cluster.workers
    fleet = LocalFleet(name, freeze_launch(name, _with_threads(config)).config)
    with StopSignals() as stop:
        while not stop.requested:
            study.expire_dead()
            status = read_status(storage, name)
            show(status)
            if status.draining or status.trials.waiting + status.trials.running == 0:
                break
            failures = fleet.failures()
            if len(failures) > config.worker.max_failures * workers:
                fleet.stop()
                raise ClusterError(f"{len(failures)} workers failed, the last: {failures[-1]}")
            fleet.start(min(workers, status.trials.waiting + fleet.running()) - fleet.running())
            time.sleep(_POLL_S)
        if stop.requested or status.draining:
            fleet.stop()
    while fleet.running():
        time.sleep(_POLL_S / 10)
    study.expire_dead()
    status = read_status(storage, name)
    show(status)
    return status.trials.waiting + status.trials.running == 0


def _with_threads(config: SearchConfig) -> SearchConfig:
    """Share this machine's cores among the workers where the config leaves the number of threads open."""
    if config.device.threads is not None:
        return config
    threads = max(1, len(os.sched_getaffinity(0)) // config.cluster.workers)
    return dataclasses.replace(config, device=dataclasses.replace(config.device, threads=threads))
