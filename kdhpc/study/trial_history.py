"""What became of one trial: its graph, what it reported, why it ended, and who worked on it, when.

One read-only transaction, without Optuna.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Row, text

from kdhpc.config.goals import GOALS, Goal
from kdhpc.errors import StudyError
from kdhpc.graph.space import canonical
from kdhpc.graph.spec import GraphSpec
from kdhpc.study import given, study_rows, trial_rows
from kdhpc.study.attempts import TrialAttempt, read_attempts
from kdhpc.study.definition import StudyDefinition
from kdhpc.study.numbers import given_number, trial_label, trial_words
from kdhpc.study.slots import EXPIRED
from kdhpc.study.storage import Storage
from kdhpc.study.study_rows import StudyRow
from kdhpc.study.trial_rows import ATTRIBUTE, NoteDocument
from kdhpc.study.trial_table import State

_TRIAL = text(f"""
    SELECT slots.trial_id, slots.state AS slot_state, trials.state AS trial_state, attempts, worked_s, reason,
        pruned_at, diverged_at, slots.graph_key, repetition, owner, owner_token, value, value_json AS note, epoch,
        slots.state = 'held' AND {EXPIRED} AS lost,
        extract(epoch FROM claimed) AS claimed, extract(epoch FROM renewed) AS renewed
    FROM kdhpc_slots AS slots LEFT JOIN trials USING (trial_id)
        LEFT JOIN trial_values ON trial_values.trial_id = slots.trial_id AND objective = 0
        LEFT JOIN trial_user_attributes AS notes ON notes.trial_id = slots.trial_id AND notes.key = :key
    WHERE slots.study_id = :slots_of AND slot = :slot
""")
_SLOTS = text("""
    SELECT min(slot) AS first, max(slot) AS last, count(*) AS total, count(trial_id) AS begun
    FROM kdhpc_slots WHERE study_id = :slots_of
""")
# Of trials that failed, what they reported decides nothing.
_CURVE = text("""
    SELECT own.step, own.intermediate_value AS value, others.median, coalesce(others.total, 0) AS total
    FROM trial_intermediate_values AS own LEFT JOIN LATERAL (
        SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY intermediate_value) AS median, count(*) AS total
        FROM kdhpc_slots AS slots JOIN trial_intermediate_values AS reports USING (trial_id)
        WHERE slots.study_id = :study_id AND slots.state <> 'failed' AND reports.step = own.step
            AND slots.trial_id <> :trial_id
    ) AS others ON true
    WHERE own.trial_id = :trial_id ORDER BY own.step
""")
_PLACE = text("""
    SELECT 1 + count(*) FILTER (WHERE :sign * trial_values.value > :sign * own.value) AS place, count(*) AS total
    FROM (SELECT CAST(:value AS float8) AS value) AS own, kdhpc_slots AS slots JOIN trials USING (trial_id)
        JOIN trial_values USING (trial_id)
    WHERE slots.study_id = :study_id AND slots.state = 'done' AND trials.state = 'COMPLETE' AND objective = 0
        AND value_type = 'FINITE'
""")
_GIVEN_NAME = text("""
    SELECT name FROM kdhpc_graphs AS graphs JOIN kdhpc_slots AS slots
        ON slots.study_id = graphs.study_id AND slots.graph_key = graphs.graph_key
    WHERE slots.trial_id = :trial_id
""")


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """What a trial reported at an epoch, beside the others."""

    epoch: int
    """1-based."""
    value: float
    """Of this trial, by the study's goal."""
    median: float | None
    """Of what the other trials of the budget have reported at this epoch by now; None: none has."""
    others: int
    """How many others have."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a complete trial stands."""

    place: int
    """1: no other complete trial of the budget is better, in the search."""
    of: int
    """Complete trials of the budget."""


@dataclass(frozen=True, kw_only=True)
class TrialHistory:
    """A trial that was begun."""

    study: str
    """Name of its study."""
    number: int
    """Its number; a given trial's is negative."""
    state: State
    """What became of it so far."""
    goal: str
    """What its values are, see ``kdhpc.config.goals``."""
    value: float | None
    """At the end of the training; None unless the trial is complete."""
    place: Place | None
    """Of a complete trial of the budget."""
    graph: GraphSpec | None
    """What it trains, in canonical form; None: that is still to be chosen."""
    name: str | None = None
    """Of the given graph that it trains."""
    repetition: int | None = None
    """Which training of that graph it is, from 1; each has another seed."""
    curve: tuple[CurvePoint, ...] = ()
    """What it has reported, by epoch."""
    epoch: int | None = None
    """The epoch that it is in, 1-based, while it runs; None: it does not, or its worker has not told yet."""
    last_epoch: int
    """Epochs of the full schedule."""
    pruner: str
    """The rule that prunes it; ``none`` for a given trial."""
    pruned_at: int | None = None
    """The epoch at which it was pruned."""
    diverged_at: int | None = None
    """The epoch in which it diverged."""
    reason: str | None = None
    """Why it failed or diverged, or why its last attempt crashed."""
    worked_s: float
    """Seconds that workers spent on it; the time of a present lease is not in it yet."""
    mode: str | None = None
    """How its steps run; None before the first."""
    data: str | None = None
    """Where its images are; None before the first step."""
    attempts: tuple[TrialAttempt, ...] = ()
    """Each time that a worker leased it, the latest 20 of them, in order."""


@dataclass(frozen=True, kw_only=True)
class KnownTrial:
    """A trial with what it was made with."""

    definition: StudyDefinition
    """Of its study."""
    study_uid: str
    """The study's own."""
    history: TrialHistory
    """What became of it."""


@dataclass(frozen=True, kw_only=True)
class TrialCourse:
    """Who worked on a trial, and whether anybody will."""

    state: State
    """What became of it so far."""
    attempts: tuple[TrialAttempt, ...]
    """As of :class:`TrialHistory`."""

    @property
    def has_ended(self) -> bool:
        """Whether nobody works on it any more, unless people let it be tried again."""
        return self.state not in ("running", "waiting")


def read_course(storage: Storage, name: str, number: int) -> TrialCourse:
    """Less than :func:`read_history`, for whoever asks again and again; raises the same."""

    def read(connection: Connection) -> TrialCourse:
        study_id = study_rows.find_id(connection, name)
        row, note = _find(connection, study_id, name, number)
        state = _state(row)
        return TrialCourse(state=state, attempts=read_attempts(row, note, state))

    return storage.read(read)


def read_history(storage: Storage, name: str, number: int) -> KnownTrial:
    """What became of a trial, as of now.

    Args:
        storage: the server.
        name: of the study.
        number: of the trial; of a given one, a negative one.

    Raises:
        UnknownStudyError: the study does not exist.
        StudyError: there is no such trial, or no worker has begun it; the message says which there are.
    """

    def read(connection: Connection) -> KnownTrial:
        study = study_rows.find(connection, name)
        history = _read(connection, study, number)
        return KnownTrial(definition=study.definition, study_uid=study.uid, history=history)

    return storage.read(read)


def _read(connection: Connection, study: StudyRow, number: int) -> TrialHistory:
    study_id, definition = study.study_id, study.definition
    row, note = _find(connection, study_id, definition.name, number)
    goal = GOALS[definition.goal]
    state = _state(row)
    run: Mapping[str, str] = note.get("run", {})
    value = row.value if state == "complete" else None
    return TrialHistory(
        study=definition.name,
        number=number,
        state=state,
        goal=definition.goal,
        value=value,
        place=None if value is None or number < 0 else _read_place(connection, study_id, goal, value),
        graph=_read_graph(connection, study, row),
        name=None
        if row.graph_key is None
        else connection.execute(_GIVEN_NAME, {"trial_id": row.trial_id}).scalar_one_or_none(),
        repetition=row.repetition,
        curve=_read_curve(connection, study_id, row.trial_id),
        epoch=row.epoch if state == "running" else None,
        last_epoch=definition.last_epoch,
        pruner=definition.pruner if number >= 0 else "none",
        pruned_at=max(row.pruned_at) if state == "pruned" and row.pruned_at else None,
        diverged_at=row.diverged_at,
        reason=row.reason,
        worked_s=row.worked_s,
        mode=run.get("mode"),
        data=run.get("data"),
        attempts=read_attempts(row, note, state),
    )


def _find(
    connection: Connection, study_id: int, name: str, number: int
) -> tuple[Row[tuple[object, ...]], NoteDocument]:
    """A trial's row and attribute.

    Raises:
        StudyError: there is no such trial, or no worker has begun it.
    """
    slots_of = given.companion(connection, study_id) if number < 0 else study_id
    values = {"slots_of": slots_of, "slot": -1 - number if number < 0 else number, "key": ATTRIBUTE}
    row = None if slots_of is None else connection.execute(_TRIAL, values).one_or_none()
    if row is None or row.trial_id is None:
        raise StudyError(_no_such_trial(connection, name, number, slots_of, exists=row is not None))
    note: NoteDocument = json.loads(row.note) if row.note else {}
    return row, note


def _state(row: Row[tuple[object, ...]]) -> State:
    if row.slot_state == "failed":
        return "failed"
    if row.slot_state == "held" and not row.lost:
        return "running"
    if row.slot_state != "done":
        return "waiting"
    if row.diverged_at is not None:
        return "diverged"
    return "complete" if row.trial_state == "COMPLETE" else "pruned"


def _read_graph(connection: Connection, study: StudyRow, row: Row[tuple[object, ...]]) -> GraphSpec | None:
    if row.graph_key is not None:
        companion = given.companion(connection, study.study_id)
        assert companion is not None
        return given.given_trial(connection, companion, row.graph_key, row.repetition).graph
    parameters = trial_rows.read_parameters(connection, row.trial_id)
    return canonical(study.definition.space.from_parameters(parameters)) if parameters else None


def _read_curve(connection: Connection, study_id: int, trial_id: int) -> tuple[CurvePoint, ...]:
    rows = connection.execute(_CURVE, {"study_id": study_id, "trial_id": trial_id})
    return tuple(CurvePoint(epoch=row.step, value=row.value, median=row.median, others=row.total) for row in rows)


def _read_place(connection: Connection, study_id: int, goal: Goal, value: float) -> Place:
    row = connection.execute(_PLACE, {"study_id": study_id, "sign": goal.sign, "value": value}).one()
    return Place(place=row.place, of=row.total)


def _no_such_trial(connection: Connection, name: str, number: int, slots_of: int | None, *, exists: bool) -> str:
    """What is there instead."""
    known = None if slots_of is None else connection.execute(_SLOTS, {"slots_of": slots_of}).one()
    if known is None or known.total == 0:
        return f"{trial_words(number)} is not there: study '{name}' was given no graphs"
    first, last = (trial_label(given_number(slot) if number < 0 else slot) for slot in (known.first, known.last))
    span = f"trial {first} alone" if first == last else f"trials {first} to {last}"
    there = f"study '{name}' has {span}, and {known.begun} begun"
    if exists:
        return f"{trial_words(number)} is not begun yet, so there is nothing to tell: {there}"
    return f"{trial_words(number)} is not there: {there}"
