"""The database's machine has its clock set while workers hold leases."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import text

from kdhpc.errors import StudyError
from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage
from tests.study.clock import ShiftedServer, shifted_server
from tests.study.made import HERE, make, scalar, take

ELSEWHERE = replace(HERE, host="elsewhere", token="e" * 32)
DAY_S = 86_400


@pytest.fixture(scope="module")
def server() -> Iterator[ShiftedServer]:
    with shifted_server() as server:
        yield server


@pytest.fixture
def shifted(server: ShiftedServer) -> Iterator[Storage]:
    """A database without studies, whose clock is right at first."""
    server.set_clock(0)
    storage = Storage.connect(server.url)
    storage.write(lambda connection: connection.execute(text("DROP SCHEMA public CASCADE")))
    storage.write(lambda connection: connection.execute(text("CREATE SCHEMA public")))
    yield storage
    storage.close()


def test_expired_lease_is_taken_over_after_the_clock_was_set_back_before_the_servers_start(
    shifted: Storage, server: ShiftedServer
) -> None:
    study = make(shifted, target=1)
    take(study, lease_s=300.0)._ended.set()  # As if its process were killed: nobody renews.
    server.set_clock(-DAY_S)
    assert scalar(shifted, "SELECT pg_postmaster_start_time() > now()")
    assert study.lease(ELSEWHERE, lease_s=300.0, renew_s=100.0) is None, "its worker may still live"
    assert read_status(shifted, "tiny").trials.running == 1
    server.set_clock(-DAY_S + 200)
    assert study.lease(ELSEWHERE, lease_s=300.0, renew_s=100.0) is None
    server.set_clock(-DAY_S + 310)
    status = read_status(shifted, "tiny")
    assert (status.trials.running, status.trials.waiting, status.workers[0].lost) == (0, 1, True)
    taken = take(study, ELSEWHERE, lease_s=300.0)
    assert (taken.number, taken.attempt) == (0, 2)
    # The time worked is that between two moments of the same clock, and never less than none.
    server.set_clock(-2 * DAY_S)
    taken.complete(50.0)
    assert 0 <= scalar(shifted, "SELECT worked_s FROM kdhpc_slots") < 120


def test_worker_that_lives_keeps_its_lease_when_the_clock_is_set_back(shifted: Storage, server: ShiftedServer) -> None:
    study = make(shifted, target=1)
    leased = take(study, lease_s=300.0)
    server.set_clock(-DAY_S)
    assert study.lease(ELSEWHERE, lease_s=300.0, renew_s=100.0) is None
    server.set_clock(-DAY_S + 200)
    assert leased.report(1, 50.0) is False
    server.set_clock(-DAY_S + 400)
    assert study.lease(ELSEWHERE, lease_s=300.0, renew_s=100.0) is None
    assert leased.report(2, 50.0) is False
    leased.complete(50.0)
    assert read_status(shifted, "tiny").trials.complete == 1


def test_crashed_trial_is_not_left_to_others_until_the_old_time_comes_again(
    shifted: Storage, server: ShiftedServer
) -> None:
    study = make(shifted, target=2)
    crashing, busy = take(study), take(study, ELSEWHERE)
    crashing.crash("CUDA error: this GPU is broken")
    assert study.lease(HERE, lease_s=60.0, renew_s=20.0) is None, "left to the other for a minute"
    server.set_clock(-DAY_S)
    assert take(study).number == crashing.number
    busy.release()


def test_lease_in_a_clock_that_is_a_little_behind_ends_as_ever(shifted: Storage, server: ShiftedServer) -> None:
    study = make(shifted, target=1)
    take(study, lease_s=300.0)._ended.set()
    server.set_clock(-30)
    assert study.lease(ELSEWHERE, lease_s=300.0, renew_s=100.0) is None
    server.set_clock(310)
    assert take(study, ELSEWHERE).attempt == 2


def test_dead_workers_lease_ends_also_where_nobody_leases(shifted: Storage, server: ShiftedServer) -> None:
    """A launcher that looks, `kdhpc stop` that waits, a study to be deleted."""
    study = make(shifted, target=1)
    take(study, lease_s=300.0)._ended.set()
    for days, look in enumerate((study.active_leases, study.drain, study.delete), start=1):
        server.set_clock(-days * DAY_S)
        with contextlib.suppress(StudyError):
            look()
        assert read_status(shifted, "tiny").trials.running == 1
        server.set_clock(-days * DAY_S + 310)
        assert read_status(shifted, "tiny").trials.running == 0
    study.delete()
