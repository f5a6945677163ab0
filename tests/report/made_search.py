"""Searches for reports: one of any size, made up in a moment, with values that are like those of a real one."""

import json
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import Connection, text

from kdhpc.config.goals import GOALS
from kdhpc.graph.space import SearchSpace, graph_key
from kdhpc.graph.spec import Gate, GraphSpec
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from kdhpc.study.trial_rows import distribution
from tests.study.made import SPLIT, definition

EPOCHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 300)


@dataclass
class Made:
    """Rows of trials."""

    numbers: list[int] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    worked: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    diverged: list[int | None] = field(default_factory=list)
    workers: list[int] = field(default_factory=list)
    reports: list[tuple[int, int, float]] = field(default_factory=list)
    parameters: list[tuple[int, str, float, str]] = field(default_factory=list)


def make_search(storage: Storage, name: str = "made", *, trials: int, **changes: object) -> SharedStudy:
    """A study of random graphs of which all trials have ended, by the median rule. The best graphs are those in which
    node 2 brings node 1's attention apart, and no label teaches node 1.
    """
    fields = {"space": SearchSpace(num_nodes=4), "last_epoch": EPOCHS[-1], **changes}
    made = definition(name, **fields)
    study = SharedStudy.create_or_open(storage, made, SPLIT, target=trials)
    rows = _rows(made.space, made.goal, trials, prunes=made.pruner != "none")
    storage.write(lambda connection: _write(connection, name, rows))
    return study


def _rows(space: SearchSpace, goal: str, trials: int, *, prunes: bool) -> Made:
    random = np.random.default_rng(0)
    made = Made()
    reported: dict[int, list[float]] = {epoch: [] for epoch in EPOCHS}
    choices = {parameter.name: parameter.choices for parameter in space.parameters()}
    free = [0.0] * 16
    for number in range(trials):
        graph = space.graph(0, number)
        quality = _quality(graph) + random.normal(scale=0.8)
        state, seen, last = "COMPLETE", 0.0, 0
        diverged = 3 if random.random() < 0.01 else None
        for epoch in EPOCHS:
            if diverged is not None and epoch > diverged:
                state = "PRUNED"
                break
            grown = 70 * (1 - 0.8 * epoch**-0.45)
            accuracy = float(np.clip(grown + quality * (1 - epoch**-0.4) + random.normal(scale=3 / epoch**0.4), 1, 99))
            seen, last = (float(-np.log(accuracy / 100)) if goal == "nll" else accuracy), epoch
            made.reports.append((number, epoch, seen))
            others = reported[epoch]
            middle = others[len(others) // 2] if others else seen
            insort(others, seen)
            if prunes and epoch < EPOCHS[-1] and GOALS[goal].sign * (seen - middle) < 0:
                state = "PRUNED"
                break
        worked = 40.0 * last
        worker = free.index(min(free))
        free[worker] = now = free[worker] + worked
        made.numbers.append(number)
        made.states.append(state)
        made.workers.append(worker)
        made.ends.append(now)
        made.worked.append(worked)
        made.values.append(seen)
        made.diverged.append(diverged if state == "PRUNED" and last < (diverged or 0) else None)
        made.notes.append(_note(number, graph, now - worked, random.random()))
        written = space.to_parameters(graph)
        made.parameters += [
            (number, key, float(choices[key].index(choice)), distribution(choices[key]))
            for key, choice in written.items()
        ]
    return made


def _quality(graph: GraphSpec) -> float:
    taught = {(edge.source, edge.target): edge for edge in graph.edges if edge.gate is not Gate.CUTOFF}
    quality = 2.0 if graph.label_gates[0] is not Gate.CUTOFF else -4.0
    edge = taught.get((1, 0))
    if edge is not None:
        quality += {"att-": 4.0, "prob-": -2.0, "prob+": 1.0}.get(edge.design.value, 0.0)
    return quality + 0.3 * len(taught)


def _note(number: int, graph: GraphSpec, began: float, luck: float) -> str:
    owner = {"host": f"node{number % 16}", "pid": 4000 + number, "job": f"17_{number % 16}", "attempt": 1}
    owners, leases = [owner], []
    if luck < 0.02:  # Crashed once, then went on elsewhere.
        owners = [{**owner, "token": "a"}, owner]
        leases = [[began, began + 600, "a", "crashed", "CUDA error: <an illegal memory access>"]]
    elif luck < 0.05:
        owners = [{**owner, "token": "a"}, owner]
        leases = [[began, began + 900, "a", "given back", None]]
    elif luck < 0.06:
        owners = [{**owner, "token": "a"}, owner]
    run = {"device": "cuda", "mode": "compile", "data": "resident", "precision": "bf16"}
    return json.dumps({"slot": number, "graph": graph_key(graph), "owners": owners, "leases": leases, "run": run})


_STATEMENTS = (
    """
    INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)
    SELECT number, :study_id, CAST(state AS trialstate), to_timestamp(1.79e9) AT TIME ZONE 'utc',
        to_timestamp(1.79e9 + ended) AT TIME ZONE 'utc'
    FROM unnest(CAST(:numbers AS integer[]), CAST(:states AS text[]), CAST(:ends AS float8[]))
        AS made (number, state, ended)
    """,
    """
    INSERT INTO trial_user_attributes (trial_id, key, value_json) SELECT trial_id, 'kdhpc', note
    FROM unnest(CAST(:numbers AS integer[]), CAST(:notes AS text[])) AS made (number, note)
        JOIN trials ON trials.number = made.number AND study_id = :study_id
    """,
    """
    INSERT INTO trial_values (trial_id, objective, value, value_type) SELECT trial_id, 0, value, 'FINITE'
    FROM unnest(CAST(:numbers AS integer[]), CAST(:values AS float8[])) AS made (number, value)
        JOIN trials ON trials.number = made.number AND study_id = :study_id
    """,
    """
    UPDATE kdhpc_slots SET state = 'done', trial_id = trials.trial_id, worked_s = made.worked,
        owner_token = md5(CAST(worker AS text)),
        diverged_at = made.diverged, reason = CASE WHEN made.diverged IS NOT NULL THEN 'a loss is not finite' END,
        claimed = to_timestamp(1.79e9 + ended - made.worked), renewed = to_timestamp(1.79e9 + ended)
    FROM unnest(CAST(:numbers AS integer[]), CAST(:worked AS float8[]), CAST(:ends AS float8[]),
            CAST(:diverged AS integer[]), CAST(:workers AS integer[])) AS made (number, worked, ended, diverged, worker)
        JOIN trials ON trials.number = made.number AND study_id = :study_id
    WHERE kdhpc_slots.study_id = :study_id AND slot = made.number
    """,
)
_REPORTS = """
    INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT trial_id, step, value, 'FINITE'
    FROM unnest(CAST(:numbers AS integer[]), CAST(:steps AS integer[]), CAST(:values AS float8[]))
        AS made (number, step, value) JOIN trials ON trials.number = made.number AND study_id = :study_id
"""
_PARAMETERS = """
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT trial_id, name, value, distribution
    FROM unnest(CAST(:numbers AS integer[]), CAST(:names AS text[]), CAST(:values AS float8[]),
            CAST(:distributions AS text[])) AS made (number, name, value, distribution)
        JOIN trials ON trials.number = made.number AND study_id = :study_id
"""


def _write(connection: Connection, name: str, made: Made) -> None:
    query = text("SELECT study_id FROM studies WHERE study_name = :name")
    own = {"study_id": connection.execute(query, {"name": name}).scalar_one()}
    rows = {
        key: getattr(made, key)
        for key in ("numbers", "states", "ends", "worked", "values", "notes", "diverged", "workers")
    }
    connection.execute(text("ALTER TABLE trials DISABLE TRIGGER USER"))  # No worker of kdhpc makes these trials.
    for statement in _STATEMENTS:
        connection.execute(text(statement), {**own, **rows})
    for statement, keys, found in (
        (_REPORTS, ("numbers", "steps", "values"), made.reports),
        (_PARAMETERS, ("numbers", "names", "values", "distributions"), made.parameters),
    ):
        columns: Sequence[Sequence[object]] = list(zip(*found, strict=True))
        connection.execute(text(statement), {**own, **dict(zip(keys, map(list, columns), strict=True))})
    connection.execute(text("ALTER TABLE trials ENABLE TRIGGER USER"))
    connection.execute(text("ANALYZE"))
