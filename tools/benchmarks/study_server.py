"""A PostgreSQL for one benchmark, and studies with a past in it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
from sqlalchemy import Connection, text

from kdhpc.config.paths import server_dir
from kdhpc.server import control as server
from kdhpc.server.address import find_address
from kdhpc.server.control import ServerOptions
from kdhpc.study.definition import StoredSplit, StudyDefinition
from kdhpc.study.owner import Owner
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tools.benchmarks.study_epochs import EPOCHS, SPACE, accuracy


@contextmanager
def benchmark_server(*, workers: int) -> Iterator[Storage]:
    """A server in a temporary folder, found by ``$KDHPC_RUNS`` as a worker finds it; stopped and removed at the end."""
    before = {name: os.environ.pop(name, None) for name in ("KDHPC_RUNS", "KDHPC_STORAGE")}
    with tempfile.TemporaryDirectory(prefix="kdhpc-bench-") as folder:
        os.environ["KDHPC_RUNS"] = folder
        server.start(server_dir(), ServerOptions(workers=workers))
        try:
            yield Storage.connect()
        finally:
            server.stop(server_dir(), write_dump=False)
            del os.environ["KDHPC_RUNS"]
            os.environ.update({name: value for name, value in before.items() if value is not None})


def server_processes() -> list[int]:
    """Process ids of the server and of all that it has started."""
    first = int((server_dir() / "data" / "postmaster.pid").read_text().split()[0])
    children = [int(pid) for pid in Path(f"/proc/{first}/task/{first}/children").read_text().split()]
    return [first, *children]


def server_cpu_s() -> float:
    """User and system time of the server, its children, and those that have ended."""
    first, *_ = server_processes()
    ticks = 0
    for pid in server_processes():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(map(int, fields[11:13]))
        ticks += sum(map(int, fields[13:15])) if pid == first else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def plain_url() -> str:
    """The server's URL, with its password."""
    return find_address(None)().render_as_string(hide_password=False)


def make_ours(storage: Storage, name: str, *, finished: int, trials: int) -> SharedStudy:
    """A shared study that has finished trials behind it, and as many slots as trials before it."""
    definition = StudyDefinition(
        name=name, space=SPACE, seed=0, pruner="median", sampler="random", max_attempts=3, last_epoch=EPOCHS[-1],
        network="none", dataset="none", dataset_checksum="none", settings="{}",
    )  # fmt: skip
    split = StoredSplit(train=np.arange(2), validation=np.arange(2, 4))
    study = SharedStudy.create_or_open(storage, definition, split, target=finished + trials)
    if finished:
        leased = study.lease(Owner.current(), lease_s=60, renew_s=30)
        assert leased is not None
        for epoch in EPOCHS:
            leased.report(epoch, accuracy(0, epoch))
        leased.complete(accuracy(0, EPOCHS[-1]))
        storage.write(lambda connection: _repeat(connection, name, finished))
        storage.write(lambda connection: _finish_ours(connection, name))
    return study


def make_plain(name: str, *, finished: int) -> None:
    """The same as an ordinary Optuna study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plain = optuna.create_study(study_name=name, storage=plain_url(), direction="maximize")
    if finished:
        trial = plain.ask()
        for parameter in SPACE.parameters():
            trial.suggest_categorical(parameter.name, parameter.choices)
        for epoch in EPOCHS:
            trial.report(accuracy(0, epoch), epoch)
        plain.tell(trial, accuracy(0, EPOCHS[-1]))
        storage = Storage.connect()
        storage.write(lambda connection: _repeat(connection, name, finished))
        storage.close()


def _repeat(connection: Connection, study: str, count: int) -> None:
    """Copy a study's one trial until there are so many; half of all are pruned at each epoch."""
    study_id = connection.execute(
        text("SELECT study_id FROM studies WHERE study_name = :study"), {"study": study}
    ).scalar_one()
    values = {"study_id": study_id, "count": count, "epochs": list(EPOCHS), "last": len(EPOCHS)}
    for statement in _REPEAT:
        connection.execute(text(statement), values)


# How many reports a trial has: one more than its number has zeros at its end in binary. The more, the better it is:
# those that are pruned are the lower half of those that came so far, as the rule has it.
_RUNGS = "least(:last, 1 + (SELECT count(*) FROM generate_series(0, 12) AS bit WHERE (number & ((2 << bit) - 1)) = 0))"
_REPEAT = (
    # No worker of kdhpc makes these trials.
    "ALTER TABLE trials DISABLE TRIGGER USER",
    """
    INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)
    SELECT number, :study_id, 'PRUNED', now(), now() FROM generate_series(1, :count - 1) AS number
    """,
    """
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT copy.trial_id, param_name, param_value, distribution_json
    FROM trials AS copy, trials AS first JOIN trial_params USING (trial_id)
    WHERE copy.study_id = :study_id AND copy.number > 0 AND first.study_id = :study_id AND first.number = 0
    """,
    """
    INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT copy.trial_id, key, value_json
    FROM trials AS copy, trials AS first JOIN trial_user_attributes USING (trial_id)
    WHERE copy.study_id = :study_id AND copy.number > 0 AND first.study_id = :study_id AND first.number = 0
    """,
    f"""
    INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT trial_id, epoch, 80 - 60 * power(2.0, -rungs) * (1 + luck), 'FINITE'
    FROM (SELECT trial_id, {_RUNGS} AS rungs, random() AS luck FROM trials WHERE study_id = :study_id AND number > 0)
        AS past, unnest(CAST(:epochs AS integer[])) WITH ORDINALITY AS rung (epoch, place)
    WHERE place <= rungs
    """,
    f"UPDATE trials SET state = 'COMPLETE' WHERE study_id = :study_id AND number > 0 AND {_RUNGS} = :last",
    """
    INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT trial_id, 0, 20 + 60 * random(), 'FINITE' FROM trials WHERE study_id = :study_id AND number > 0
    """,
    "ALTER TABLE trials ENABLE TRIGGER USER",
    "ANALYZE",
)


def _finish_ours(connection: Connection, study: str) -> None:
    """The copies' slots and reports, as if each had been leased and trained."""
    connection.execute(
        text("""
            UPDATE kdhpc_slots AS slots SET state = 'done', trial_id = trials.trial_id, attempts = 1, worked_s = 1
            FROM trials JOIN studies USING (study_id)
            WHERE study_name = :study AND slots.study_id = studies.study_id AND slots.slot = trials.number
                AND slots.state = 'free'
        """),
        {"study": study},
    )
    for statement in _LIST_REPORTS:
        connection.execute(text(statement), {"study": study, "last": EPOCHS[-1]})


_LIST_REPORTS = (
    """
    INSERT INTO kdhpc_reports (trial_id, epoch, study_id, value)
    SELECT trial_id, step, study_id, intermediate_value
    FROM studies JOIN trials USING (study_id) JOIN trial_intermediate_values USING (trial_id)
    WHERE study_name = :study AND number > 0 AND step < :last
    """,
    "ANALYZE",
)
