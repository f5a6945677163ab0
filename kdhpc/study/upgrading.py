"""Tables of an earlier version of kdhpc, moved up to those of this one.

``kdhpc_slots`` carries the version of all tables of kdhpc as its comment. Whoever changes a table raises
``TABLES_VERSION`` and adds the step from the version before to ``STEPS``: SQL that does not change afterwards, so that
it uses nothing of other modules. Optuna's tables have a version of their own, see ``optuna_tables``; they are checked
and never changed here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from kdhpc.errors import DatabaseError, StudyError
from kdhpc.study import foreign
from kdhpc.study.slots import EXPIRED, TABLES_VERSION
from kdhpc.words import counted


@dataclass(frozen=True, kw_only=True)
class Step:
    """From one version to the next one."""

    says: str
    """What it does, for people."""
    statements: tuple[str, ...]
    """SQL."""


STEPS: Mapping[int, Step] = {
    3: Step(
        says="a trial has the number of its slot; reports that decide about pruning have a table of their own",
        statements=(
            """
            UPDATE trials SET number = slot FROM kdhpc_slots AS slots
            WHERE slots.trial_id = trials.trial_id AND number <> slot
            """,
            "ALTER TABLE kdhpc_studies DROP COLUMN num_trials",
            """
            CREATE TABLE kdhpc_reports (
                trial_id integer NOT NULL REFERENCES trials ON DELETE CASCADE,
                epoch integer NOT NULL,
                study_id integer NOT NULL,
                value double precision NOT NULL,
                PRIMARY KEY (trial_id, epoch)
            )
            """,
            "CREATE UNIQUE INDEX kdhpc_slots_held ON kdhpc_slots (lease) WHERE state = 'held'",
        ),
    ),
    4: Step(
        says="a study has an identity of its own; trials can diverge, and say how far they have come",
        statements=(
            "ALTER TABLE kdhpc_studies ADD COLUMN uid text",
            "UPDATE kdhpc_studies SET uid = md5(concat(random(), clock_timestamp(), study_id))",
            "ALTER TABLE kdhpc_studies ALTER COLUMN uid SET NOT NULL",
            "ALTER TABLE kdhpc_slots ADD COLUMN progress bigint NOT NULL DEFAULT 0",
            "ALTER TABLE kdhpc_slots ADD COLUMN pruned_at integer[] NOT NULL DEFAULT '{}'",
            "ALTER TABLE kdhpc_slots ADD COLUMN diverged_at integer",
            "DROP TABLE IF EXISTS kdhpc_report_counts",
            "DROP INDEX IF EXISTS kdhpc_reports_by_value",
            "CREATE INDEX kdhpc_reports_by_value ON kdhpc_reports (study_id, epoch, value, trial_id)",
            """
            INSERT INTO kdhpc_reports (trial_id, epoch, study_id, value)
            SELECT trials.trial_id, reports.step, trials.study_id, reports.intermediate_value
            FROM trial_intermediate_values AS reports
                JOIN trials ON trials.trial_id = reports.trial_id
                JOIN kdhpc_slots AS slots ON slots.trial_id = trials.trial_id
                JOIN kdhpc_studies AS studies ON studies.study_id = trials.study_id
            WHERE trials.state <> 'FAIL' AND reports.intermediate_value IS NOT NULL
                AND (CAST(definition AS jsonb) ->> 'pruner' = 'median'
                    OR CAST(definition AS jsonb) ->> 'pruner' = 'asha' AND reports.step & (reports.step - 1) = 0)
                AND reports.step < CAST(CAST(definition AS jsonb) ->> 'last_epoch' AS integer)
            ON CONFLICT DO NOTHING
            """,
        ),
    ),
    5: Step(
        says="a study has one precision, which its next worker settles",
        statements=("ALTER TABLE kdhpc_studies ADD COLUMN precision text",),
    ),
    6: Step(
        says="graphs can be given, beside the budget: baselines, and the best ones again; old studies have none",
        statements=(
            "ALTER TABLE kdhpc_studies ADD COLUMN given_of integer UNIQUE REFERENCES kdhpc_studies ON DELETE CASCADE",
            "ALTER TABLE kdhpc_slots ADD COLUMN graph_key text",
            "ALTER TABLE kdhpc_slots ADD COLUMN repetition integer",
            """
            CREATE TABLE kdhpc_graphs (
                study_id integer NOT NULL REFERENCES kdhpc_studies ON DELETE CASCADE,
                graph_key text NOT NULL,
                graph text NOT NULL,
                name text,
                is_candidate boolean NOT NULL DEFAULT false,
                PRIMARY KEY (study_id, graph_key)
            )
            """,
            """
            CREATE UNIQUE INDEX kdhpc_slots_given ON kdhpc_slots (study_id, graph_key, repetition)
                WHERE graph_key IS NOT NULL
            """,
        ),
    ),
    7: Step(
        says="a lease says which epoch its training is in, and how many images a second it is shown",
        statements=(
            "ALTER TABLE kdhpc_slots ADD COLUMN epoch integer",
            "ALTER TABLE kdhpc_slots ADD COLUMN images_per_s double precision",
        ),
    ),
}
"""By the version that they begin with."""

_FOUND = text(
    "SELECT to_regclass('kdhpc_slots') AS slots, obj_description(to_regclass('kdhpc_slots'), 'pg_class') AS said"
)
_NUM_HELD = text(f"SELECT count(*) FROM kdhpc_slots WHERE state = 'held' AND NOT {EXPIRED}")
# Companions, with given trials, are left out: no study's name has a colon.
_STUDIES = text("""
    SELECT study_name FROM kdhpc_studies JOIN studies USING (study_id) WHERE study_name NOT LIKE '%:%'
    ORDER BY study_name
""")
_NEWEST = int(TABLES_VERSION.rpartition(" ")[2])
_ELSE = "use that version, or another database (KDHPC_RUNS or KDHPC_STORAGE)"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done to a database."""

    version: int
    """Of its tables."""
    steps: tuple[tuple[int, Step], ...]
    """Each with the version that it begins with; None: the tables are this version's."""
    studies: tuple[str, ...]
    """The studies in it, by name."""
    num_held: int
    """Trials that workers hold: they must be stopped first."""


def has_tables(connection: Connection) -> bool:
    """Whether any study was ever made in this database.

    Raises:
        DatabaseError: another version of kdhpc made it; the message says what to do.
    """
    found = connection.execute(_FOUND).one()
    if found.slots is not None and found.said != TABLES_VERSION:
        raise _other_version(found.said)
    return found.slots is not None


def plan(connection: Connection) -> Plan | None:
    """What would move the tables up; None: there are none.

    Raises:
        DatabaseError: they are of a version that cannot be moved up.
    """
    found = connection.execute(_FOUND).one()
    if found.slots is None:
        return None
    version = _number(found.said)
    if version is None or not _can_be_moved(version):
        raise _other_version(found.said)
    return Plan(
        version=version,
        steps=tuple((step, STEPS[step]) for step in range(version, _NEWEST)),
        studies=tuple(connection.execute(_STUDIES).scalars()),
        num_held=int(connection.execute(_NUM_HELD).scalar_one()),
    )


def upgrade(connection: Connection) -> None:
    """Move the tables up, in the transaction of the caller.

    Raises:
        DatabaseError: as :func:`plan`.
        StudyError: workers hold trials.
    """
    connection.execute(text("LOCK TABLE kdhpc_studies, kdhpc_slots IN ACCESS EXCLUSIVE MODE"))
    found = plan(connection)
    if found is None or not found.steps:
        return
    check_idle(found)
    for _, step in found.steps:
        for statement in step.statements:
            connection.execute(text(statement))
    for statement in (*foreign.GUARD, f"COMMENT ON TABLE kdhpc_slots IS '{TABLES_VERSION}'"):
        connection.execute(text(statement))


def check_idle(found: Plan) -> None:
    """Refuse to move tables that workers use.

    Raises:
        StudyError: workers hold trials.
    """
    if found.num_held:
        raise StudyError(
            f"the tables are not moved up: workers hold {counted(found.num_held, 'trial')}; stop them (kdhpc stop, of "
            "the version that they run), then try again"
        )


def _other_version(said: str | None) -> DatabaseError:
    version = _number(said)
    who, remedy = "another version of", _ELSE
    if version is not None and version > _NEWEST:
        who = "a newer"
    elif version is not None and _can_be_moved(version):
        who, remedy = "an older", "stop its workers, then see what `kdhpc db upgrade` would do"
    return DatabaseError(
        f"{who} kdhpc made the studies in this database ({said or 'tables of no version'}, this one needs "
        f"{TABLES_VERSION}): {remedy}"
    )


def _can_be_moved(version: int) -> bool:
    return version <= _NEWEST and all(step in STEPS for step in range(version, _NEWEST))


def _number(said: str | None) -> int | None:
    """6 of "kdhpc tables 6"."""
    match = re.fullmatch(r"kdhpc tables (\d+)", said or "")
    return int(match[1]) if match else None
