"""Optuna's own view of a study: making one, and its TPE.

The rest writes Optuna's tables by SQL, see ``trial_rows``; ``optuna_tables`` makes them.
"""

import copy
import logging
from collections.abc import Callable, Set
from typing import TypeVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdhpc.errors import StudyError
from kdhpc.graph.space import SearchSpace, canonical
from kdhpc.graph.spec import GraphSpec
from kdhpc.server.address import DRIVER, Address, open_engine
from kdhpc.study.optuna_tables import make_tables
from kdhpc.study.storage import Storage
from kdhpc.study.trial_rows import ATTRIBUTE

T = TypeVar("T")

_MAX_DRAWS = 1000


def ensure_study(storage: Storage, name: str, *, maximise: bool = True) -> int:
    """Make Optuna's tables and the study in them, where they are missing; to be called by one launcher at a time.

    Args:
        storage: the server.
        name: of the study.
        maximise: whether its value is maximised, else minimised.

    Returns:
        Optuna's id of the study.

    Raises:
        DatabaseError: the tables are of another program, or of another version of Optuna.
        StudyError: the study exists and does something else with its values.
    """
    storage.write(make_tables)
    rdb = _open(storage.address)
    direction = _direction(maximise=maximise)
    try:
        names = {study.study_name: study for study in rdb.get_all_studies()}
        if name not in names:
            return int(_quietly(lambda: rdb.create_new_study([direction], name)))
        if names[name].directions != [direction]:
            does = "maximise" if maximise else "minimise"
            raise StudyError(f"study '{name}' exists, and Optuna does not {does} one value in it: use another name")
        return int(names[name]._study_id)
    finally:
        rdb.engine.dispose()


class OptunaView:
    """The study as Optuna sees it, opened when first needed; finished trials are read once and kept.

    Safe to use from one thread.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self._name = name
        self._study: optuna.Study | None = None

    def tpe_graph(self, space: SearchSpace, seed: int, trial_ids: Set[int], *, maximise: bool = True) -> GraphSpec:
        """The canonical graph that TPE would try next, given all finished trials.

        Args:
            space: the graphs to choose from.
            seed: of the sampler, for this slot.
            trial_ids: Optuna's ids of the trials that count.
            maximise: whether the study maximises its values.

        Raises:
            StudyError: TPE proposes none that the space admits.
        """
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        finished = self._ask(lambda study: study.get_trials(deepcopy=False, states=states))
        # A study in memory: asking the shared one would make a trial that a crash leaves to nobody.
        direction = _direction(maximise=maximise)
        drawing = _quietly(lambda: optuna.create_study(direction=direction, sampler=TPESampler(seed=seed)))
        drawing.add_trials(_as_it_counts(trial) for trial in finished if trial._trial_id in trial_ids)
        choices: dict[str, BaseDistribution] = {
            parameter.name: CategoricalDistribution(parameter.choices) for parameter in space.parameters()
        }
        for _ in range(_MAX_DRAWS):
            drawn = {name: str(value) for name, value in drawing.ask(choices).params.items()}
            graph = canonical(space.from_parameters(drawn))
            if space.admits(graph):
                return graph
        raise StudyError(
            f"TPE proposed {_MAX_DRAWS} graphs with nodes that never learn, which study '{self._name}' rejects: use "
            "study.sampler=random"
        )

    def _ask(self, question: Callable[[optuna.Study], T]) -> T:
        def once() -> T:
            if self._study is None:
                self._study = optuna.load_study(study_name=self._name, storage=_open(self._storage.address))
            try:
                return question(self._study)
            except BaseException:
                self._study = None
                raise

        return self._storage.retried(once)


def _as_it_counts(trial: FrozenTrial) -> FrozenTrial:
    """A diverged trial without its reports: TPE takes the pruned trials that came furthest for the better ones."""
    if "diverged" not in trial.user_attrs.get(ATTRIBUTE, {}):
        return trial
    worst = copy.copy(trial)
    worst.intermediate_values = {}
    return worst


def _direction(*, maximise: bool) -> StudyDirection:
    return StudyDirection.MAXIMIZE if maximise else StudyDirection.MINIMIZE


def _open(address: Address) -> RDBStorage:
    """Optuna's view of the server, which has its tables. All its connections are made as ours are."""
    return RDBStorage(
        f"{DRIVER}://",
        engine_kwargs={"pool": open_engine(address).pool},
        skip_table_creation=True,
        skip_compatibility_check=True,
    )


def _quietly(call: Callable[[], T]) -> T:
    """Optuna tells every new study on stderr; kdhpc does its own telling."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        return call()
    finally:
        logger.setLevel(level)
