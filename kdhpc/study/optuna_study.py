"""The only file that imports Optuna: its schema, its TPE.

The rest of the study writes Optuna's tables by SQL; see ``trial_rows``.
"""

import logging
from collections.abc import Callable, Set
from typing import TypeVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import Connection, text

from kdhpc.errors import DatabaseError, StudyError
from kdhpc.graph.space import SearchSpace, canonical
from kdhpc.graph.spec import GraphSpec
from kdhpc.study.address import Address, engine_settings, follow
from kdhpc.study.storage import Storage
from kdhpc.study.trial_rows import SCHEMA_VERSION

T = TypeVar("T")

_MAX_DRAWS = 1000


def ensure_study(storage: Storage, name: str) -> int:
    """Make Optuna's tables and the study in them, where they are missing; to be called by one launcher at a time.

    Returns:
        Optuna's id of the study.

    Raises:
        DatabaseError: the tables are of another version of Optuna.
        StudyError: the study exists and does not maximise one value.
    """
    storage.write(_check_schema)
    rdb = _open(storage.address, creates_tables=True)
    try:
        storage.write(_check_schema)
        names = {study.study_name: study for study in rdb.get_all_studies()}
        if name not in names:
            return int(_quietly(lambda: rdb.create_new_study([StudyDirection.MAXIMIZE], name)))
        if names[name].directions != [StudyDirection.MAXIMIZE]:
            raise StudyError(f"study '{name}' exists, and Optuna does not maximise one value in it: use another name")
        return int(names[name]._study_id)
    finally:
        rdb.engine.dispose()


class OrdinaryStudy:
    """The study as Optuna sees it, opened when first needed; finished trials are read once and kept.

    Safe to use from one thread.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self._name = name
        self._study: optuna.Study | None = None

    def tpe_graph(self, space: SearchSpace, seed: int, trial_ids: Set[int]) -> GraphSpec:
        """The canonical graph that TPE would try next, given all finished trials.

        Args:
            space: the graphs to choose from.
            seed: of the sampler, for this slot.
            trial_ids: Optuna's ids of the trials that count.

        Raises:
            StudyError: TPE proposes none that the space admits.
        """
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        finished = self._ask(lambda study: study.get_trials(deepcopy=False, states=states))
        # A study in memory: asking the shared one would make a trial that a crash leaves to nobody.
        drawing = _quietly(lambda: optuna.create_study(direction="maximize", sampler=TPESampler(seed=seed)))
        drawing.add_trials(trial for trial in finished if trial._trial_id in trial_ids)
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


def _open(address: Address, *, creates_tables: bool = False) -> RDBStorage:
    """Optuna's view of the server. The url is a template to Optuna: braces in it are doubled."""
    url = address().render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    rdb = RDBStorage(
        url,
        engine_kwargs=engine_settings(),
        skip_table_creation=not creates_tables,
        skip_compatibility_check=True,
    )
    follow(rdb.engine, address)
    return rdb


def _check_schema(connection: Connection) -> None:
    """Where there are tables of Optuna's, they must be those that this version makes."""
    if connection.execute(text("SELECT to_regclass('version_info')")).scalar_one() is None:
        return
    for row in connection.execute(text("SELECT schema_version, library_version FROM version_info")):
        same_major = str(row.library_version).split(".")[0] == optuna.__version__.split(".")[0]
        if row.schema_version != SCHEMA_VERSION or not same_major:
            raise DatabaseError(
                f"the database was made with Optuna {row.library_version} (schema {row.schema_version}); this kdhpc "
                f"needs Optuna {optuna.__version__.split('.')[0]} (schema {SCHEMA_VERSION}): use a database of its own"
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
