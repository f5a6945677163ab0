"""Searches for Python users: workers are processes on this machine, trials stand in PostgreSQL."""

import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from kdhpc.api.data import Data, dataset_group, open_data
from kdhpc.api.graphs import Graph
from kdhpc.api.keywords import to_overrides, written
from kdhpc.api.networks import ChosenNetwork, Network, choose_importable
from kdhpc.api.training import interrupted_by
from kdhpc.config.compose import compose_search
from kdhpc.config.folders import config_names
from kdhpc.config.goals import GOALS, Goal
from kdhpc.config.paths import StudyPaths, packed_dir
from kdhpc.config.schema import SearchConfig, check_study_name
from kdhpc.data.memory import write_packed
from kdhpc.data.packed import PackedDataset
from kdhpc.data.progress import Progress
from kdhpc.errors import ConfigError, NetworkError, StudyError
from kdhpc.graph.space import graph_key
from kdhpc.interpreter import child_python_words
from kdhpc.networks.names import is_own
from kdhpc.networks.own import register_imported
from kdhpc.searching.enqueueing import check_given
from kdhpc.searching.export import confirmation, export_trials, named_graph, provenance
from kdhpc.searching.local import for_this_machine, search_locally
from kdhpc.searching.outcome import problem_of
from kdhpc.searching.plan import Confirmation, StudyPlan, plan_study, stored_groups
from kdhpc.server.control import ensure_server
from kdhpc.study.given import GivenGraph, load_given
from kdhpc.study.ranking import Lead
from kdhpc.study.status import GivenStatus, StudyStatus, TrialRecord, read_status, top_trials
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from kdhpc.study.trial_table import TrialRow, read_trials

_LOG = logging.getLogger(__name__)
_PATIENCE_S = 10.0
_ALL = 1 << 31
_WITHOUT_MAPS = ["prob+", "prob-"]
_NOT_BY_WORKERS = (
    "cannot be imported by worker processes: install the package of {}, or put its folder in PYTHONPATH (not the "
    "working folder)"
)


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
    def plugins(self) -> tuple[str, ...]:
        """Modules of the designs and gates that its graphs may have, beside kdhpc's own."""
        return tuple(self._shared.definition.plugins)

    @property
    def goal(self) -> str:
        """What values are: ``ensemble``, ``node1``, ``mean_node`` or ``nll``, of which less is better."""
        return self._shared.definition.goal

    @property
    def best(self) -> Graph:
        """The graph of the best complete trial, with where it comes from.

        Raises:
            StudyError: no trial is complete.
        """
        return self._graph(self._top(1)[0])

    @property
    def best_value(self) -> float:
        """What that trial of the search came to on the validation images, by the study's :attr:`goal`.

        By default the ensemble's accuracy, in percent. The best of many such values is too good to be true: see
        :meth:`confirm`.

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
    def trials(self) -> list[dict[str, str | int | float | None]]:
        """All trials that were begun: the complete ones, best first, then the others, by number.

        ``pandas.DataFrame(study.trials)`` is a table of them. Its columns:

        - ``number``: of the trial in the study.
        - ``state``: ``complete``, ``pruned``, ``diverged``, ``running``, ``waiting`` (interrupted, to go on) or
          ``failed``.
        - ``value``: accuracy of the ensemble at the end, in percent; None unless the trial is complete.
        - ``last_epoch``, ``last_value``: the last epoch at which the trial reported, and the accuracy there.
        - ``reason``: why it failed, diverged or crashed; else None.
        - ``seconds``: that workers spent on it.
        - ``graph_key``, and a column for each gate and design of the graph.

        Where the graph was confirmed, ``confirmed_mean``, ``confirmed_error`` (its standard error, of two seeds or
        more) and ``confirmed_seeds`` are there as well.
        """
        space = self._shared.definition.space
        rows = sorted(read_trials(self._storage, self.name), key=_best_first(GOALS[self.goal]))
        known = {trial.number: confirmation(trial) for trial in self._top(_ALL)}
        return [
            {
                "number": row.number,
                "state": row.state,
                "value": row.value,
                "last_epoch": row.last_epoch,
                "last_value": row.last_value,
                "reason": row.reason,
                "seconds": row.worked_s,
                "graph_key": None if row.graph is None else graph_key(row.graph),
                **known.get(row.number, {}),
                **({} if row.graph is None else space.to_parameters(row.graph)),
            }
            for row in rows
        ]

    @property
    def given(self) -> tuple[GivenStatus, ...]:
        """The graphs that the study was given to compare with, and what they have come to: its baselines."""
        return self.status.given

    @property
    def lead(self) -> tuple[Lead, ...]:
        """By how much the best graph is better than each of the given ones, in points; negative: it is behind."""
        return self.status.lead

    def enqueue(self, *graphs: str | Path | Graph, seeds: int = 1) -> None:
        """Give the study graphs to compare with, as ``kdhpc enqueue`` does; :func:`search` trains them.

        Args:
            graphs: Presets by their names, files, or graphs.
            seeds: Trainings of each, with those that it has already.

        Raises:
            GraphError: one of them is no graph that the study can train.
            NetworkError: one compares attention maps, and the study's networks make none that could be compared.
        """
        definition = self._shared.definition
        names = [str(graph) for graph in graphs if not isinstance(graph, Graph)]
        own = [GivenGraph(graph=graph.spec, name=graph.name) for graph in graphs if isinstance(graph, Graph)]
        given = [*load_given(names, definition.space, definition.node_networks), *own]
        check_given(self._shared, given)
        self._shared.give(given, num_seeds=_positive("seeds", seeds))

    def confirm(
        self, top: int = 10, seeds: int = 3, *, workers: int | None = None, overrides: Sequence[str] = ()
    ) -> None:
        """Train the best graphs again with new seeds, and the given ones as often, on this machine.

        From then on they rank by the mean of these trainings. Trials of the budget that are open are trained, too.

        Args:
            top: How many graphs, by their values in the search.
            seeds: Trainings of each; those of an earlier call count.
            workers: Processes at once; None: 1.
            overrides: How to run, as ``"device.threads=4"``.

        Raises:
            StudyError: no trial is complete.
            KdhpcError: as :func:`search`.
            KeyboardInterrupt: it was stopped; the same call goes on.
        """
        words = [*([] if workers is None else [f"cluster.workers={workers}"]), *overrides]
        config = compose_search(words, given=stored_groups(self._shared))
        for one in config.possible_networks:
            register_imported(one.name)
        confirmation = Confirmation(top=_positive("top", top), num_seeds=_positive("seeds", seeds))
        plan = replace(plan_study(self.name, for_this_machine(config)), confirmation=confirmation)
        _run(plan, trials=None, show=_ignore)

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
    plugins: Sequence[str] = (),
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
        plugins: Modules of designs and gates of one's own, which ``designs``, ``gates`` and ``label_gates`` may then
            name. Worker processes import them, too.
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
    for one in networks:
        _refuse_not_importable(one)
    words = [f"study.networks={written('study.networks', networks)}"] if networks else []
    if plugins:
        keywords["plugins"] = plugins
    config = _config(name, dataset, packed, chosen, nodes, trials, workers, [*words, *overrides], folder, keywords)
    if packed is not None:
        place = packed_dir(packed.manifest.name)
        if write_packed(packed, place, Progress(sys.stderr)):
            _LOG.warning("the images are packed in %s, where workers read them", place)
    # Before there is a server: most mistakes show here.
    plan = plan_study(name, for_this_machine(config))
    return _run(plan, trials=trials, show=on_status or _ignore)


def _run(plan: StudyPlan, *, trials: int | None, show: Callable[[StudyStatus], None]) -> Study:
    """Search until nothing is left to train."""
    with interrupted_by() as stop:
        ensure_server()
        storage = Storage.connect(patience_s=_PATIENCE_S, should_stop=lambda: stop.requested)
        shared, manifest = plan.launch(storage, trials=trials)
        is_done = search_locally(shared, plan.config, manifest, storage, stop, show, _LOG.warning)
    if not is_done:
        raise KeyboardInterrupt("stopped: the same call goes on")
    study = Study(plan.definition.name, storage)
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
    given: dict[str, object] = {}
    study: dict[str, object] = {}
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
        given["study"] = study = {"num_nodes": nodes, "trials": trials}
    for key, number in (("study.num_nodes", nodes), ("study.trials", trials), ("cluster.workers", workers)):
        if number is not None:
            chosen.append(f"{key}={number}")
    if isinstance(dataset, str):
        chosen.append(f"dataset={written('dataset', dataset)}")
    if packed is not None and isinstance(dataset, str):
        chosen.append(f"dataset.name={packed.manifest.name}")
    elif packed is not None:
        given["dataset"] = dataset_group(packed)
    if network is not None and network.own is None:
        chosen.append(network.override)
    more = [*words, *overrides]
    if network is not None and network.own is not None:
        standing_in: dict[str, object] = {**given, "network": {"name": "-", "crops": [1]}}
        side = compose_search([*chosen, *more], config_dir=config_dir, given=standing_in).dataset.image_size
        given["network"] = network.group(side) or {}
    if network is not None and not all(map(is_own, network.each)):
        side = compose_search([*chosen, *more], config_dir=config_dir, given=given).dataset.image_size
        if not network.makes_maps(side) and "designs" not in keywords and study:
            given["study"] = {**study, "designs": _WITHOUT_MAPS}
    config = compose_search([*chosen, *more], config_dir=config_dir, given=given)
    for one in config.possible_networks:
        register_imported(one.name)  # Of a study that was made earlier.
    for plugin in config.plugins:
        if not _can_be_imported(plugin):
            raise ConfigError(f"plug-in {plugin!r} {_NOT_BY_WORKERS.format(plugin)}")
    if config.cluster.executor != "local":
        raise ConfigError("cluster.executor=slurm is not allowed here: kdhpc.search works on this machine")
    if network is not None and not network.makes_maps(config.dataset.image_size):
        wrong = [design for design in config.study.designs if design.compares_maps]
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
    for name in network.each:
        _refuse_not_importable(name)
    return network


def _refuse_not_importable(name: str) -> None:
    module, colon, _ = name.partition(":")
    if colon and not _can_be_imported(module):
        raise NetworkError(f"network {name!r} {_NOT_BY_WORKERS.format(module)}")


def _can_be_imported(module: str) -> bool:
    """Whether another Python than this one finds a module."""
    code = "import importlib.util as u, sys; sys.exit(u.find_spec(sys.argv[1]) is None)"
    done = subprocess.run([*child_python_words(), "-c", code, module], capture_output=True, check=False)
    return done.returncode == 0


def _best_first(goal: Goal) -> Callable[[TrialRow], tuple[bool, float, int]]:
    """Complete trials by value, the earlier of equals first; then the others by number."""
    return lambda row: (row.value is None, -goal.sign * (row.value or 0.0), row.number)


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ConfigError(f"{name}={value} is not allowed: give 1 or more")
    return value


def _ignore(status: StudyStatus) -> None:
    pass
