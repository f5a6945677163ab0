"""All studies of a database, in three statements whatever they hold: without Optuna, and without their plug-ins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Row, text

from kdhpc.config.goals import DEFAULT_GOAL, GOALS
from kdhpc.study import study_rows
from kdhpc.study.hours import SPENT
from kdhpc.study.ranking import UNCONFIRMED, classes, confirmed
from kdhpc.study.slots import EXPIRED
from kdhpc.study.status import BestTrial, read_counts, read_given_counts
from kdhpc.study.storage import Storage
from kdhpc.study.trial_rows import ATTRIBUTE
from kdhpc.study.upgrading import has_tables

StudyState = Literal["running", "waiting", "stopping", "stopped", "out of hours", "done"]

_MINIMISED = [name for name, goal in GOALS.items() if not goal.maximise]
_STUDIES = text(f"""
    SELECT own.study_id, study_name, CAST(definition AS jsonb) AS definition, draining,
        {SPENT.replace(":study_id", "own.study_id")} AS spent,
        extract(epoch FROM created) AS created, extract(epoch FROM greatest(created, renewed)) AS last,
        extract(epoch FROM now() - greatest(created, renewed)) AS quiet_s, counts.*
    FROM kdhpc_studies AS own JOIN studies ON studies.study_id = own.study_id LEFT JOIN (
        SELECT coalesce(given_of, slots.study_id) AS study,
            count(*) FILTER (WHERE given_of IS NULL) AS total,
            count(*) FILTER (WHERE given_of IS NULL AND slots.state IN ('done', 'failed')) AS finished,
            count(*) FILTER (WHERE given_of IS NULL AND slots.state = 'failed') AS failed,
            count(*) FILTER (WHERE given_of IS NULL AND slots.state = 'free' AND trial_id IS NULL) AS unbegun,
            count(*) FILTER (WHERE given_of IS NOT NULL) AS given,
            count(*) FILTER (WHERE given_of IS NOT NULL AND slots.state IN ('done', 'failed')) AS given_finished,
            count(*) FILTER (WHERE slots.state = 'held' AND NOT {EXPIRED}) AS running,
            max(renewed) AS renewed
        FROM kdhpc_slots AS slots JOIN kdhpc_studies USING (study_id) GROUP BY 1
    ) AS counts ON counts.study = own.study_id
    WHERE given_of IS NULL ORDER BY study_name
""")
_CANDIDATES = text("""
    SELECT given_of, slots.graph_key, count(*) FILTER (WHERE slots.state IN ('free', 'held')) AS open,
        count(*) FILTER (WHERE slots.state = 'done' AND diverged_at IS NOT NULL) AS diverged,
        array_agg(value ORDER BY repetition) FILTER (
            WHERE slots.state = 'done' AND diverged_at IS NULL AND value_type = 'FINITE') AS values
    FROM kdhpc_graphs AS graphs JOIN kdhpc_studies USING (study_id)
        JOIN kdhpc_slots AS slots ON slots.study_id = graphs.study_id AND slots.graph_key = graphs.graph_key
        LEFT JOIN trial_values ON trial_values.trial_id = slots.trial_id AND objective = 0
    WHERE is_candidate GROUP BY given_of, slots.graph_key
""")
# The order of `kdhpc.study.status`, in each study. A definition is long: it is read once a study, not once a trial.
_BEST = text(f"""
    WITH own AS MATERIALIZED (
        SELECT study_id, CASE WHEN CAST(definition AS jsonb) ->> 'goal' = ANY(:minimised) THEN -1 ELSE 1 END AS sign
        FROM kdhpc_studies WHERE given_of IS NULL
    )
    SELECT DISTINCT ON (found.study_id) found.study_id, number, value, found.graph_key FROM (
        SELECT slots.study_id, number, value, CAST(value_json AS jsonb) ->> 'graph' AS graph_key, sign
        FROM kdhpc_slots AS slots JOIN own ON own.study_id = slots.study_id JOIN trials USING (trial_id)
            JOIN trial_values USING (trial_id)
            LEFT JOIN trial_user_attributes AS notes ON notes.trial_id = trials.trial_id AND notes.key = :key
        WHERE slots.state = 'done' AND trials.state = 'COMPLETE'
            AND objective = 0 AND value_type = 'FINITE'
    ) AS found LEFT JOIN unnest(
        CAST(:studies AS integer[]), CAST(:keys AS text[]), CAST(:classes AS integer[]), CAST(:means AS float8[])
    ) AS known (study_id, graph_key, class, mean)
        ON known.study_id = found.study_id AND known.graph_key = found.graph_key
    ORDER BY found.study_id, coalesce(class, {UNCONFIRMED}), sign * mean DESC NULLS LAST, sign * value DESC, number
""")


@dataclass(frozen=True, kw_only=True)
class StudyEntry:
    """A study among all of a database."""

    study: str
    """Its name."""
    state: StudyState
    """``running``: workers hold trials; ``waiting``: trials are to be trained, and none is; ``stopping``,
    ``stopped``: by ``kdhpc stop``; ``out of hours``: no trial begins any more; ``done``."""
    finished: int
    """Trials of the budget that nobody will go on with."""
    target: int
    """The budget of trials."""
    failed: int
    """Those of the finished that crashed too often."""
    running: int
    """Trials that workers hold, given ones included."""
    given_finished: int
    """Given trials, outside the budget, that nobody will go on with."""
    given: int
    """All given trials."""
    best: BestTrial | None
    """As ``kdhpc status`` ranks it; None before the first complete trial."""
    goal: str
    """What its values are, see ``kdhpc.config.goals``; a newer kdhpc may know more of them."""
    created: float
    """When it was made, in seconds since 1970, by the database's clock."""
    last_activity: float
    """When a worker last gave a sign of life, or when it was made, as well."""
    quiet_s: float
    """Seconds since then."""
    dataset: str
    """Name of the packed data set."""
    network: str
    """Of every node, or several with ``+`` between them."""
    num_nodes: int | None
    """Networks of an ensemble; None: not known."""


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """What a graph's confirmation has come to."""

    graph_key: str
    values: tuple[float, ...]
    open: int
    diverged: int
    is_candidate: bool = True


def read_studies(storage: Storage) -> tuple[StudyEntry, ...]:
    """All studies of a database, by name; all numbers are of the same point in time.

    Raises:
        DatabaseError: the tables are of another version of kdhpc.
    """

    def read(connection: Connection) -> tuple[StudyEntry, ...]:
        if not has_tables(connection):
            return ()
        candidates: dict[int, list[_Candidate]] = {}
        for row in connection.execute(_CANDIDATES):
            candidates.setdefault(row.given_of, []).append(
                _Candidate(
                    graph_key=row.graph_key, values=tuple(row.values or ()), open=row.open, diverged=row.diverged
                )
            )
        best = _read_best(connection, candidates)
        return tuple(_entry(row, best.get(row.study_id)) for row in connection.execute(_STUDIES))

    return storage.read(read)


def is_at_rest(storage: Storage, name: str) -> bool:
    """Whether nobody works on a study, and nobody will unless people go on with it: it is done, or was stopped.

    Raises:
        UnknownStudyError: it does not exist.
    """

    def read(connection: Connection) -> bool:
        study_id = study_rows.find_id(connection, name)
        counts = read_counts(connection, study_id), read_given_counts(connection, study_id)
        if study_rows.is_draining(connection, study_id):
            return not any(count.running for count in counts)
        return not any(count.unfinished for count in counts)

    return storage.read(read)


def _read_best(connection: Connection, candidates: Mapping[int, Sequence[_Candidate]]) -> dict[int, BestTrial]:
    """The best trial of each study that has a complete one."""
    known = [
        (study_id, key, rank, mean)
        for study_id, results in candidates.items()
        for key, (rank, mean) in classes(results).items()
    ]
    values = {
        "key": ATTRIBUTE,
        "minimised": _MINIMISED,
        **{name: [row[place] for row in known] for place, name in enumerate(("studies", "keys", "classes", "means"))},
    }
    return {
        row.study_id: BestTrial(
            number=row.number,
            value=row.value,
            confirmed=next(
                (confirmed(one) for one in candidates.get(row.study_id, ()) if one.graph_key == row.graph_key), None
            ),
        )
        for row in connection.execute(_BEST, values)
    }


def _entry(row: Row[tuple[object, ...]], best: BestTrial | None) -> StudyEntry:
    definition = row.definition
    return StudyEntry(
        study=row.study_name,
        state=_state(row),
        finished=row.finished or 0,
        target=row.total or 0,
        failed=row.failed or 0,
        running=row.running or 0,
        given_finished=row.given_finished or 0,
        given=row.given or 0,
        best=best,
        goal=definition.get("goal", DEFAULT_GOAL),
        created=float(row.created),
        last_activity=float(row.last),
        quiet_s=max(0.0, float(row.quiet_s)),
        dataset=definition.get("dataset", ""),
        network=definition.get("network", ""),
        num_nodes=definition.get("space", {}).get("num_nodes"),
    )


def _state(row: Row[tuple[object, ...]]) -> StudyState:
    if row.running:
        return "stopping" if row.draining else "running"
    left = (row.total or 0) - (row.finished or 0)
    left_given = (row.given or 0) - (row.given_finished or 0)
    if left + left_given == 0:
        return "done"
    if row.draining:
        return "stopped"
    return "out of hours" if row.spent and left == row.unbegun and left_given == 0 else "waiting"
