"""Searches for Python users: workers are processes on this machine, trials stand in PostgreSQL."""

import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from kdhpc.api.data import Data, dataset_group, open_data
from kdhpc.api.graphs import Graph
from kdhpc.api.keywords import to_overrides, written
from kdhpc.api.networks import ChosenNetwork, Network, choose_importable
from kdhpc.api.training import interrupted_by
from kdhpc.config.compose import compose_search
from kdhpc.config.folders import config_names
from kdhpc.config.paths import StudyPaths, packed_dir
from kdhpc.config.schema import SearchConfig, check_study_name
from kdhpc.data.memory import write_packed
from kdhpc.data.packed import PackedDataset
from kdhpc.data.progress import Progress
from kdhpc.errors import ConfigError, NetworkError, StudyError
from kdhpc.graph.space import graph_key
from kdhpc.interpreter import child_python_words
from kdhpc.networks.own import register_imported
from kdhpc.searching.export import export_trials, named_graph, provenance
from kdhpc.searching.local import for_this_machine, search_locally
from kdhpc.searching.outcome import problem_of
from kdhpc.searching.plan import plan_study, stored_groups
from kdhpc.server.control import ensure_server
from kdhpc.study.status import StudyStatus, TrialRecord, read_status, top_trials
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy

_LOG = logging.getLogger(__name__)
_PATIENCE_S = 10.0
_ALL = 1 << 31
_WITHOUT_MAPS = ["prob+", "prob-"]


class Study:
    """A shared study, as far as it is: what its trials came to, and the graphs that they trained.

    Args:
        name: Its name.
        storage: The database that it is in.

    Raises:
        UnknownStudyError: there is no such study.
        DatabaseError: the database cannot be reached.
    """

    def __init__(self, name: str, storage: Storage) -> None:
        self.name = name
        self._storage = storage
        self._shared = SharedStudy.open(storage, name)

    def __repr__(self) -> str:
        counts = self.status.trials
        return f"<Study {self.name!r}: {counts.finished} of {counts.target} trials done>"

    @property
    def status(self) -> StudyStatus:
        """Trials by state, rungs, workers and speed, as ``kdhpc status`` shows them."""
        return read_status(self._storage, self.name)

    @property
    def best(self) -> Graph:
        """The graph of the best complete trial, with where it comes from.

        Raises:
            StudyError: no trial is complete.
        """
        return self._graph(self._top(1)[0])

    @property
    def best_value(self) -> float:
        """The ensemble's accuracy on the validation images in that trial, in percent.

        Raises:
            StudyError: no trial is complete.
        """
        return self._top(1)[0].value

    def top(self, k: int) -> tuple[Graph, ...]:
        """The graphs of the best complete trials, best first; fewer where there are fewer.

        Raises:
            StudyError: no trial is complete.
        """
        return tuple(map(self._graph, self._top(k)))

    @property
    def trials(self) -> list[dict[str, str | int | float]]:
        """The complete trials, best first: ``number``, ``value``, ``graph_key``, ``seconds``, and a column an edge.

        ``pandas.DataFrame(study.trials)`` is a table of them.
        """
        space = self._shared.definition.space
        return [
            {
                "number": trial.number,
                "value": trial.value,
                "graph_key": graph_key(trial.graph),
                "seconds": trial.worked_s,
                **space.to_parameters(trial.graph),
            }
            for trial in top_trials(self._storage, self.name, _ALL)
        ]

    def export(self, top: int = 1, folder: str | Path | None = None, *, draw: bool = True) -> tuple[Path, ...]:
        """Write the best graphs, as ``kdhpc export-best`` does.

        Args:
            top: How many.
            folder: Where to; None: ``runs/<study>/export``.
            draw: Draw them, too.

        Returns:
            The graphs' files, first that of the best by a name that does not change.

        Raises:
            StudyError: no trial is complete.
            StorageError: the file system refuses.
        """
        target = StudyPaths.of(self.name).export if folder is None else Path(folder)
        trials = self._top(top)
        files, _ = export_trials(self._shared.definition, trials, target, study_uid=self._shared.uid, draw=draw)
        return tuple(file.graph for file in files)

    def _top(self, k: int) -> tuple[TrialRecord, ...]:
        trials = top_trials(self._storage, self.name, k)
        if not trials:
            raise StudyError(f"study {self.name!r} has no complete trial: see `kdhpc status --study {self.name}`")
        return trials

    def _graph(self, trial: TrialRecord) -> Graph:
        return Graph(
            spec=named_graph(self._shared.definition, trial.graph),
            name=f"{self.name}-trial{trial.number}",
            provenance=provenance(self._shared.definition, trial, self._shared.uid),
        )


def search(
    name: str,
    *,
    dataset: Data | None = None,
    network: Network | None = None,
    networks: Sequence[str] = (),
    nodes: int | None = None,
    trials: int | None = None,
    workers: int | None = None,
    test: Data | None = None,
    classes: Sequence[str] | None = None,
    on_status: Callable[[StudyStatus], None] | None = None,
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
    **keywords: object,
) -> Study:
    """Search for the graph whose ensemble is most accurate, with workers on this machine, until the budget is done.

    What ``kdhpc search`` does: without ``KDHPC_STORAGE`` it starts the embedded PostgreSQL of ``runs/db``, the same
    call goes on where it was interrupted, and ``kdhpc launch --study NAME`` goes on with it under Slurm. Images
    in memory are packed into ``KDHPC_DATA`` once, under a name that says their content, where workers read them.

    Args:
        name: The study. One that exists goes on; without a data set and a network, as it was made.
        dataset: As for :func:`kdhpc.train`; a part of its training images is kept to score graphs.
        network: The name of a network, or a callable that worker processes can import, also as ``"my_module:MyNet"``;
            or a list of M names.
        networks: Names of networks that each node may be: the search chooses (``study.networks``). ``network`` is that
            of graphs that name none.
        nodes: M, the networks of the ensemble.
        trials: The budget; None: an existing study keeps its own.
        workers: Processes at once; None: 1.
        test: Images that the search never sees, kept with ``dataset`` in memory for a final training.
        classes: As for :func:`kdhpc.train`.
        on_status: Called with the study's status about once a second.
        overrides: Any key of the config, as ``"worker.lease_s=60"``.
        config_dir: Your own configs, searched before the shipped ones.
        keywords: Keys of the config without their group: ``epochs``, ``gates``, ``designs``, ``pruner``, ``subset``,
            ``validation_fraction``, ...; ``study="dogs4"`` and ``training="short"`` choose configs of those groups.

    Returns:
        The study.

    Raises:
        ClusterError: workers cannot work; the message says why.
        ConfigError: a key or value that is not allowed, or something that does not fit.
        DatabaseError: there is no PostgreSQL, or it cannot be reached.
        DataError: a data set that is not prepared, or images or labels that cannot be used.
        NetworkError: an unknown network, or one that worker processes cannot import.
        StudyError: the study was made with something else, or no trial of it is complete.
        KdhpcError: as ``kdhpc search``.
        KeyboardInterrupt: it was stopped; the same call goes on.

    With ``images``, uint8 (N, 3, H, W), and their ``labels``:

    >>> import kdhpc
    >>> study = kdhpc.search(
    ...     "mine", dataset=(images, labels), network="resnet8", crops=[3], nodes=2, trials=2, epochs=1, batch_size=16
    ... )
    >>> study, len(study.trials), study.best.num_nodes
    (<Study 'mine': 2 of 2 trials done>, 2, 2)
    """
    check_study_name(name)
    chosen = None if network is None else _importable(choose_importable(network))
    packed = None
    if dataset is not None:
        packed = open_data(dataset, test, classes, needs_test=False)
    folder = None if config_dir is None else Path(config_dir)
    words = [f"study.networks={written('study.networks', networks)}"] if networks else []
    config = _config(name, dataset, packed, chosen, nodes, trials, workers, [*words, *overrides], folder, keywords)
    if packed is not None:
        place = packed_dir(packed.manifest.name)
        if write_packed(packed, place, Progress(sys.stderr)):
            _LOG.warning("the images are packed in %s, where workers read them", place)
    # Before there is a server: most mistakes show here.
    plan = plan_study(name, for_this_machine(config))
    with interrupted_by() as stop:
        ensure_server()
        storage = Storage.connect(patience_s=_PATIENCE_S, should_stop=lambda: stop.requested)
        shared, manifest = plan.launch(storage, trials=trials)
        show = on_status or _ignore
        is_done = search_locally(shared, plan.config, manifest, storage, stop, show, _LOG.warning)
    if not is_done:
        raise KeyboardInterrupt("stopped: the same call goes on")
    study = Study(name, storage)
    status = study.status
    problem = problem_of(status, f"the logs in {manifest.logs}")
    if problem is not None and not status.trials.complete:
        raise StudyError(problem)
    if problem is not None:
        _LOG.warning("%s", problem)
    return study


def _config(
    name: str,
    dataset: Data | None,
    packed: PackedDataset | None,
    network: ChosenNetwork | None,
    nodes: int | None,
    trials: int | None,
    workers: int | None,
    overrides: Sequence[str],
    config_dir: Path | None,
    keywords: dict[str, object],
) -> SearchConfig:
    """The config of a search: by the data set and the network, of a study's file, or as the study was made."""
    words = to_overrides(SearchConfig, keywords)
    chosen: list[str] = []
    given: dict[str, dict[str, object]] = {}
    names_study = any(word.startswith("study=") for word in words)
    if not names_study and dataset is None and network is None:
        if name in config_names("study", config_dir):
            chosen.append(f"study={name}")
        else:
            ensure_server()
            given.update(stored_groups(SharedStudy.open(Storage.connect(patience_s=_PATIENCE_S), name)))
    elif not names_study:
        if dataset is None or network is None or nodes is None or trials is None:
            missing = {"dataset": dataset, "network": network, "nodes": nodes, "trials": trials}
            absent = ", ".join(f"{key}=" for key, value in missing.items() if value is None)
            raise ConfigError(
                f"a search needs {absent}: give them, or study=NAME of a config, or only the study's name"
            )
        given["study"] = {"num_nodes": nodes, "trials": trials}
    for key, number in (("study.num_nodes", nodes), ("study.trials", trials), ("cluster.workers", workers)):
        if number is not None:
            chosen.append(f"{key}={number}")
    if isinstance(dataset, str):
        chosen.append(f"dataset={dataset}")
    if packed is not None and isinstance(dataset, str):
        chosen.append(f"dataset.name={packed.manifest.name}")
    elif packed is not None:
        given["dataset"] = dataset_group(packed)
    if network is not None and network.own is None:
        chosen.append(network.override)
    more = [*words, *overrides]
    if network is not None and network.own is not None:
        standing_in: dict[str, dict[str, object]] = {**given, "network": {"name": "-", "crops": [1]}}
        side = compose_search([*chosen, *more], config_dir=config_dir, given=standing_in).dataset.image_size
        given["network"] = network.group(side) or {}
        if not network.makes_maps(side) and "designs" not in keywords and "study" in given:
            given["study"] = {**given["study"], "designs": _WITHOUT_MAPS}
    config = compose_search([*chosen, *more], config_dir=config_dir, given=given)
    for one in config.possible_networks:
        register_imported(one.name)  # Of a study that was made earlier.
    if config.cluster.executor != "local":
        raise ConfigError("cluster.executor=slurm is not allowed here: kdhpc.search works on this machine")
    if network is not None and not network.makes_maps(config.dataset.image_size):
        wrong = [design.value for design in config.study.designs if design.value not in _WITHOUT_MAPS]
        if wrong:
            raise ConfigError(
                f"study.designs has {', '.join(wrong)}, and {network.name} makes no attention map: use "
                "designs=['prob+', 'prob-']"
            )
    return config


def _importable(network: ChosenNetwork) -> ChosenNetwork:
    """The network, if processes that are not this one can import it.

    Raises:
        NetworkError: they cannot.
    """
    if network.own is None:
        return network
    module = network.name.partition(":")[0]
    code = "import importlib.util as u, sys; sys.exit(u.find_spec(sys.argv[1]) is None)"
    done = subprocess.run([*child_python_words(), "-c", code, module], capture_output=True, check=False)
    if done.returncode != 0:
        raise NetworkError(
            f"network {network.name!r} cannot be imported by worker processes: install the package of {module}, or put "
            "its folder in PYTHONPATH (not the working folder)"
        )
    return network


def _ignore(status: StudyStatus) -> None:
    pass
