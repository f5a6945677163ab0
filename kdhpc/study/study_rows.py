"""A study's own row, and how many slots it has."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, text

from kdhpc.config.goals import DEFAULT_GOAL
from kdhpc.errors import StudyError, StudyMismatchError, UnknownStudyError, near
from kdhpc.study import foreign, given, median_rule, trial_rows
from kdhpc.study.definition import (
    Split,
    StoredSplit,
    StudyDefinition,
    differences,
    from_json,
    pack_indices,
    split_differences,
    to_json,
    unpack_indices,
)
from kdhpc.study.given import GivenGraph
from kdhpc.study.slots import EXPIRED, OF_BOTH, TABLES
from kdhpc.study.upgrading import has_tables
from kdhpc.words import counted

_MOST_NAMED = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyRow:
    """A study as it is stored."""

    study_id: int
    """Optuna's id of it."""
    uid: str
    """Its own, 32 hexadecimal digits: a study of the same name that is made later has another."""
    definition: StudyDefinition
    """What it was made with."""
    split: StoredSplit
    """The images that it uses."""


def create(
    connection: Connection,
    study_id: int,
    definition: StudyDefinition,
    split: Split,
    target: int,
    *,
    baselines: Sequence[GivenGraph] = (),
) -> None:
    """Write the study's row and its slots if it is not there, compare it if it is.

    One that is made now is given its baselines; one that exists keeps those that it has.

    A precision that the definition names is settled by it; else the study's first worker settles one.

    Raises:
        StudyMismatchError: it was made with something else.
        StudyError: the name is that of another program's study.
    """
    if not has_tables(connection):
        for statement in (*TABLES, *median_rule.TABLES, *foreign.GUARD):
            connection.execute(text(statement))
    _refuse_foreign(connection, study_id, definition.name)
    written = connection.execute(
        text("""
            INSERT INTO kdhpc_studies (study_id, uid, definition, train, validation, precision)
            VALUES (:study_id, :uid, :definition, :train, :validation, :precision) ON CONFLICT DO NOTHING
        """),
        {
            "study_id": study_id,
            "uid": uuid.uuid4().hex,
            "definition": to_json(definition),
            "train": pack_indices(split.train),
            "validation": pack_indices(split.validation),
            "precision": definition.precision,
        },
    )
    if definition.precision:
        settle_precision(connection, study_id, definition.precision)
    _lock(connection, study_id)
    # Slots that were not begun yet make way, should their numbers be those of other trials now.
    _set_slots(connection, study_id, target if written.rowcount == 1 else _num_slots(connection, study_id))
    if written.rowcount == 1:
        given.give(connection, study_id, baselines, num_seeds=1)
    refuse_other(connection, definition, split)


def refuse_other(connection: Connection, definition: StudyDefinition, split: Split) -> None:
    """Refuse a study that exists and was made with something else.

    Raises:
        StudyMismatchError: the message names each difference.
    """
    if definition.name not in names(connection):
        return
    stored = find(connection, definition.name)
    different = [*differences(stored.definition, definition), *split_differences(stored.split, split)]
    if different:
        raise StudyMismatchError(
            f"study '{definition.name}' was made with something else: {'; '.join(different)}: give the same again, or "
            f"another study name; or delete it (kdhpc db delete-study {definition.name})"
        )


def resize(connection: Connection, name: str, target: int) -> None:
    """Add slots to a study, or remove those that were never started, highest first, to reach the target.

    Raises:
        StudyError: more trials than the target have started.
    """
    study_id = find_id(connection, name)
    _lock(connection, study_id)
    _set_slots(connection, study_id, target)
    started = _num_slots(connection, study_id)
    if started > target:
        raise StudyError(
            f"study '{name}' cannot be lowered to {counted(target, 'trial')}: {started} have started; allowed are "
            f"{started} or more"
        )


def num_begun(connection: Connection, study_id: int) -> int:
    """Trials of a study that were ever started."""
    query = text("SELECT count(trial_id) FROM kdhpc_slots WHERE study_id = :study_id")
    return int(connection.execute(query, {"study_id": study_id}).scalar_one())


def trial_ids(connection: Connection, study_id: int) -> frozenset[int]:
    """Optuna's ids of the trials that workers of kdhpc have begun."""
    query = text("SELECT trial_id FROM kdhpc_slots WHERE study_id = :study_id AND trial_id IS NOT NULL")
    return frozenset(connection.execute(query, {"study_id": study_id}).scalars())


def delete(connection: Connection, study_id: int, name: str) -> None:
    """Delete a study with its slots and trials.

    Raises:
        StudyError: workers hold slots of it.
    """
    # Nobody leases a slot whose row is locked.
    query = f"SELECT state = 'held' AND NOT {EXPIRED} FROM kdhpc_slots WHERE study_id {OF_BOTH} FOR UPDATE"
    companion = given.companion(connection, study_id)
    held = sum(connection.execute(text(query), {"study_id": study_id}).scalars())
    if held:
        raise StudyError(
            f"study '{name}' is not deleted: workers hold {held} of its trials; stop them (kdhpc stop --study {name}), "
            "then try again"
        )
    connection.execute(text("DELETE FROM kdhpc_studies WHERE study_id = :study_id"), {"study_id": study_id})
    for one in (study_id, companion):
        if one is not None:
            trial_rows.delete_study(connection, one)


def find(connection: Connection, name: str) -> StudyRow:
    """A study by its name.

    Raises:
        UnknownStudyError: it does not exist; the message lists those that do.
        StudyError: another version of kdhpc made it.
    """
    study_id = find_id(connection, name)
    row = connection.execute(
        text("SELECT uid, definition, train, validation, precision FROM kdhpc_studies WHERE study_id = :study_id"),
        {"study_id": study_id},
    ).one()
    return StudyRow(
        study_id=study_id,
        uid=row.uid,
        definition=replace(from_json(row.definition, name=name), precision=row.precision),
        split=StoredSplit(train=unpack_indices(row.train), validation=unpack_indices(row.validation)),
    )


def find_id(connection: Connection, name: str, *, uid: str | None = None) -> int:
    """Optuna's id of a study of kdhpc.

    Args:
        connection: in a transaction.
        name: of the study.
        uid: that it must have; None: any.

    Raises:
        UnknownStudyError: it does not exist, and the message names the nearest that do; or it has another uid.
    """
    known = names(connection)
    if name not in known:
        raise UnknownStudyError(unknown_study(name, known))
    query = text("SELECT study_id, uid FROM studies JOIN kdhpc_studies USING (study_id) WHERE study_name = :name")
    found = connection.execute(query, {"name": name}).one()
    if uid not in (None, found.uid):
        raise UnknownStudyError(f"study '{name}' was deleted meanwhile, and another one of that name was made")
    return int(found.study_id)


def unknown_study(name: str, known: Sequence[str]) -> str:
    """The message for a name that no study has: the nearest ones, and what there is."""
    if not known:
        return f"unknown study '{name}': there is none in this database, `kdhpc search --study NAME` makes one"
    meant = " or ".join(f"'{one}'" for one in near(name, known, at_most=3))
    return f"unknown study '{name}': {f'did you mean {meant}? ' if meant else ''}there are {listed_studies(known)}"


def listed_studies(names: Sequence[str]) -> str:
    """Names of studies in a message; of many, some."""
    shown, num_more = ", ".join(names[:_MOST_NAMED]), len(names) - _MOST_NAMED
    return f"{shown} and {num_more} more (see `kdhpc studies`)" if num_more > 0 else shown


def goal(connection: Connection, study_id: int) -> str:
    """What a study makes better, see ``kdhpc.config.goals``."""
    query = text("SELECT CAST(definition AS jsonb) ->> 'goal' FROM kdhpc_studies WHERE study_id = :study_id")
    stored: str | None = connection.execute(query, {"study_id": study_id}).scalar_one()
    return DEFAULT_GOAL if stored is None else stored


def names(connection: Connection) -> tuple[str, ...]:
    """All studies of kdhpc, by name."""
    if not has_tables(connection):
        return ()
    query = """
        SELECT study_name FROM kdhpc_studies JOIN studies USING (study_id) WHERE given_of IS NULL ORDER BY study_name
    """
    return tuple(connection.execute(text(query)).scalars())


def set_draining(connection: Connection, study_id: int, draining: bool) -> None:
    """Ask all workers of a study to give their slots back, or let them be leased again."""
    connection.execute(
        text(f"UPDATE kdhpc_studies SET draining = :draining WHERE study_id {OF_BOTH} AND draining <> :draining"),
        {"study_id": study_id, "draining": draining},
    )


def is_draining(connection: Connection, study_id: int) -> bool:
    """Whether the workers of a study are asked to give their slots back.

    Raises:
        UnknownStudyError: it was deleted.
    """
    query = text("SELECT draining FROM kdhpc_studies WHERE study_id = :study_id")
    draining = connection.execute(query, {"study_id": study_id}).scalar_one_or_none()
    if draining is None:
        raise UnknownStudyError("the study was deleted meanwhile")
    return bool(draining)


def settle_precision(connection: Connection, study_id: int, precision: str) -> str:
    """Give a study its precision if it has none; gives the one that it has then.

    Raises:
        UnknownStudyError: it was deleted.
    """
    query = text("""
        UPDATE kdhpc_studies SET precision = coalesce(precision, :precision) WHERE study_id = :study_id
        RETURNING precision
    """)
    settled = connection.execute(query, {"study_id": study_id, "precision": precision}).scalar_one_or_none()
    if settled is None:
        raise UnknownStudyError("the study was deleted meanwhile")
    return str(settled)


def read_precision(connection: Connection, study_id: int) -> str | None:
    """What a study's trials are computed in; None before it is settled."""
    query = text("SELECT precision FROM kdhpc_studies WHERE study_id = :study_id")
    precision: str | None = connection.execute(query, {"study_id": study_id}).scalar_one_or_none()
    return precision


# Numbers of the budget: the first ones that no trial of another program has.
_WANTED = f"""
    taken AS {foreign.TAKEN}, wanted AS (
        SELECT slot FROM generate_series(0, :target - 1 + (SELECT count(*) FROM taken)) AS slot
        WHERE slot NOT IN (SELECT number FROM taken) ORDER BY slot LIMIT :target
    )
"""
_REMOVE_SLOTS = text(f"""
    WITH {_WANTED}, unwanted AS (
        SELECT slot FROM kdhpc_slots
        WHERE study_id = :study_id AND trial_id IS NULL AND state = 'free' AND slot NOT IN (SELECT slot FROM wanted)
        FOR UPDATE SKIP LOCKED
    )
    DELETE FROM kdhpc_slots WHERE study_id = :study_id AND slot IN (SELECT slot FROM unwanted)
""")
_ADD_SLOTS = text(f"""
    WITH {_WANTED}, missing AS (SELECT slot FROM wanted EXCEPT SELECT slot FROM kdhpc_slots WHERE study_id = :study_id)
    INSERT INTO kdhpc_slots (study_id, slot) SELECT :study_id, slot FROM missing ORDER BY slot
    LIMIT greatest(0, :target - (SELECT count(*) FROM kdhpc_slots WHERE study_id = :study_id))
""")


def _lock(connection: Connection, study_id: int) -> None:
    """Let nobody else change the number of slots until the end of the transaction."""
    connection.execute(
        text("SELECT 1 FROM kdhpc_studies WHERE study_id = :study_id FOR UPDATE"), {"study_id": study_id}
    )


def _set_slots(connection: Connection, study_id: int, target: int) -> None:
    """Add slots, or remove those that were never started, to reach the target."""
    values = {"study_id": study_id, "target": target}
    connection.execute(_REMOVE_SLOTS, values)
    connection.execute(_ADD_SLOTS, values)


def _num_slots(connection: Connection, study_id: int) -> int:
    query = text("SELECT count(*) FROM kdhpc_slots WHERE study_id = :study_id")
    return int(connection.execute(query, {"study_id": study_id}).scalar_one())


def _refuse_foreign(connection: Connection, study_id: int, name: str) -> None:
    """A study with trials that is not kdhpc's belongs to another program."""
    foreign = connection.execute(
        text("""
            SELECT count(*) FROM trials
            WHERE study_id = :study_id AND NOT EXISTS (SELECT 1 FROM kdhpc_studies WHERE study_id = :study_id)
        """),
        {"study_id": study_id},
    ).scalar_one()
    if foreign:
        raise StudyError(f"study '{name}' exists in this database and is not kdhpc's: use another name")
