"""Leases while the database is away: nobody can renew one then, so none ends."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from kdhpc.server.control import ServerOptions, start, stop
from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.study.made import HERE, make, take

ELSEWHERE = replace(HERE, host="elsewhere", token="e" * 32)


@pytest.fixture
def restart(server_folder: Path) -> Iterator[Callable[[], None]]:
    """Stops the server and starts it again; it runs after the test in any case."""

    def stop_and_start() -> None:
        stop(server_folder)
        start(server_folder, ServerOptions())

    yield stop_and_start
    start(server_folder, ServerOptions())


def fall_silent(storage: Storage, *, for_s: float, lease_s: float) -> None:
    """As if all workers had last renewed their leases so long ago."""
    silent = """
        UPDATE kdhpc_slots SET renewed = now() - :for_s * interval '1 second',
            expires = now() + (:lease_s - :for_s) * interval '1 second'
        WHERE state = 'held'
    """
    storage.write(lambda connection: connection.execute(text(silent), {"for_s": for_s, "lease_s": lease_s}))


def test_outage_longer_than_a_lease_costs_no_worker_its_trial(storage: Storage, restart: Callable[[], None]) -> None:
    study = make(storage, target=3)
    leased = take(study, lease_s=300.0)
    fall_silent(storage, for_s=3600, lease_s=300)
    restart()
    status = read_status(storage, "tiny")
    assert (status.trials.running, status.trials.waiting, status.workers[0].lost) == (1, 2, False)
    newcomer = SharedStudy.open(Storage.connect(), "tiny")
    assert take(newcomer, ELSEWHERE).number == 1
    assert leased.report(1, 50.0) is False
    fall_silent(storage, for_s=3600, lease_s=0.01)
    status = read_status(storage, "tiny")
    assert (status.trials.running, status.workers[0].lost) == (0, True), "it ends, counted from the server's start"
    taken = take(newcomer, ELSEWHERE)
    assert (taken.number, taken.attempt) == (0, 2)


def test_process_that_lost_the_database_lets_others_renew_before_it_takes_over(
    storage: Storage, server_folder: Path, restart: Callable[[], None]
) -> None:
    study = make(storage, target=1)
    take(study, lease_s=300.0)._ended.set()
    stop(server_folder)
    assert storage.write_now(lambda connection: 1) is None
    restart()
    fall_silent(storage, for_s=3600, lease_s=0.01)
    assert study.lease(ELSEWHERE, lease_s=60, renew_s=20) is None
    time.sleep(0.3)
    assert take(study, ELSEWHERE, lease_s=0.3).attempt == 2, "two renewal periods later"
