"""``tools/bench watch``: a refresh of ``kdhpc status --watch``, of a small study and of a large one."""

import argparse
import io
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from unittest import mock

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import Engine

from kdhpc.cli.status_view import status_parts
from kdhpc.cli.terminal import Terminal
from kdhpc.cli.watch_view import Asides, View, fitted_parts
from kdhpc.study.owner import Owner, to_json
from kdhpc.study.status import StudyStatus, read_status
from kdhpc.study.storage import Storage
from tools.benchmarks.report import Cell, Report
from tools.benchmarks.study_server import benchmark_server, make_ours, server_cpu_s

_SIZES = ((80, 24), (40, 24), (200, 60))
"""Columns and lines."""

_HOLD = (
    "ALTER TABLE trials DISABLE TRIGGER USER",
    """
    INSERT INTO trials (number, study_id, state, datetime_start)
    SELECT number, :study_id, 'RUNNING', now() FROM generate_series(:first, :first + :count - 1) AS number
    """,
    """
    INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT trial_id, 'kdhpc', :note FROM trials WHERE study_id = :study_id AND number >= :first
    """,
    """
    UPDATE kdhpc_slots SET state = 'held', trial_id = trials.trial_id, attempts = 1, lease = md5(CAST(slot AS text)),
        owner = replace(:owner, '"0"', concat('"991_', slot, '"')), owner_token = md5(CAST(slot AS text)),
        claimed = now() - interval '1 hour', renewed = now() - slot % 40 * interval '1 second',
        expires = now() + interval '1 day' - CASE WHEN slot % 100 = 0 THEN interval '2 days' ELSE interval '0' END,
        epoch = slot % 300 + 1, images_per_s = 10000 + slot
    FROM trials WHERE trials.study_id = :study_id AND kdhpc_slots.study_id = :study_id AND trials.number = slot
        AND trials.number >= :first
    """,
    "ALTER TABLE trials ENABLE TRIGGER USER",
    "ANALYZE",
)


class Window(io.StringIO):
    """A terminal that nobody looks at."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        """It is one."""
        return True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured."""
    parser.add_argument("--trials", nargs="+", type=int, default=[100, 6000], help="finished ones (default: 100 6000)")
    parser.add_argument("--leases", nargs="+", type=int, default=[8, 1000], help="running ones (default: 8 1000)")
    parser.add_argument("--times", type=int, default=9, help="each is measured (default: 9)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure."""
    rows: list[dict[str, Cell]] = []
    with benchmark_server(workers=16) as storage:
        for trials, leases in zip(arguments.trials, arguments.leases, strict=True):
            name = f"of{trials}"
            make_running(storage, name, finished=trials, leases=leases)
            rows.append(_row(storage, name, trials=trials, leases=leases, times=arguments.times))
    return Report(
        title="A refresh of kdhpc status --watch",
        settings={"times": arguments.times},
        rows=rows,
        notes=[
            "A refresh is what is read and drawn at 80x24; `status` prints all workers. Medians, the database's means."
        ],
    )


def make_running(storage: Storage, name: str, *, finished: int, leases: int) -> None:
    """A study with finished trials, and with as many more that workers hold; one in a hundred workers is lost."""
    study = make_ours(storage, name, finished=finished, trials=leases)
    owner = to_json(Owner.current(job="0"))
    note = json.dumps({"run": {"mode": "compile", "data": "resident"}, "owners": [json.loads(owner)]})
    values = {"first": finished, "count": leases, "owner": owner, "note": note}

    def hold(connection: Connection) -> None:
        query = text("SELECT study_id FROM studies WHERE study_name = :name")
        study_id = connection.execute(query, {"name": study.definition.name}).scalar_one()
        for statement in _HOLD:
            connection.execute(text(statement), {**values, "study_id": study_id})

    storage.write(hold)


@contextmanager
def _counted() -> Iterator[list[str]]:
    told: list[str] = []

    def tell(*arguments: object) -> None:
        told.append(str(arguments[2]))

    event.listen(Engine, "before_cursor_execute", tell)
    try:
        yield told
    finally:
        event.remove(Engine, "before_cursor_execute", tell)


@dataclass(frozen=True, kw_only=True)
class _Cost:
    """Of one call, in milliseconds."""

    wall: float
    client: float
    """CPU time of this process."""
    server: float
    """CPU time of the database's processes."""


def _row(storage: Storage, name: str, *, trials: int, leases: int, times: int) -> dict[str, Cell]:
    with _counted() as statements:
        status = read_status(storage, name)
    reading = [_cost(lambda: read_status(storage, name)) for _ in range(times)]
    drawing = {size: [_cost(partial(_draw, status, size)) for _ in range(times)] for size in _SIZES}
    at_80 = drawing[_SIZES[0]]
    return {
        "finished": trials,
        "leases": leases,
        "statements": len(statements),
        "read ms": statistics.median(cost.wall for cost in reading),
        "CPU here ms": statistics.median(cost.client for cost in reading),
        "CPU of the database ms": statistics.mean(cost.server for cost in reading),
        **{
            f"draw {width}x{height} CPU ms": statistics.median(cost.client for cost in drawing[width, height])
            for width, height in _SIZES
        },
        "refresh p50 ms": statistics.median(read.wall + draw.wall for read, draw in zip(reading, at_80, strict=True)),
        "refresh max ms": max(read.wall + draw.wall for read, draw in zip(reading, at_80, strict=True)),
        "status CPU ms": _cost(lambda: _print(status)).client,
    }


def _cost(call: Callable[[], object]) -> _Cost:
    wall_s, client_s, server_s = time.perf_counter(), time.process_time(), server_cpu_s()
    call()
    return _Cost(
        wall=1e3 * (time.perf_counter() - wall_s),
        client=1e3 * (time.process_time() - client_s),
        server=1e3 * (server_cpu_s() - server_s),
    )


def _draw(status: StudyStatus, size: tuple[int, int]) -> None:
    with _window(size):
        terminal = Terminal(Window())
        view = View(status=status, asides=Asides(), read_at=time.time())
        terminal.print(fitted_parts(view, size[1], terminal.num_lines))


def _print(status: StudyStatus) -> None:
    with _window(_SIZES[0]):
        Terminal(Window()).print(status_parts(status, ()))


def _window(size: Sequence[int]) -> AbstractContextManager[object]:
    return mock.patch("shutil.get_terminal_size", return_value=os.terminal_size((size[0], size[1])))
