"""Asking a study's workers, through the database, to give their slots back."""

import time

from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.study.made import HERE, make


def test_drain_is_seen_by_workers_and_stops_leases_until_resumed(storage: Storage) -> None:
    study = make(storage, target=3)
    leased = study.lease(HERE, lease_s=60.0, renew_s=0.05)
    assert leased is not None
    assert not leased.draining

    study.drain()
    assert study.is_draining()
    assert read_status(storage, "tiny").draining
    assert SharedStudy.open(storage, "tiny").lease(HERE, lease_s=60.0, renew_s=0.05) is None
    deadline = time.monotonic() + 10
    while not leased.draining and time.monotonic() < deadline:
        time.sleep(0.01)
    assert leased.draining
    assert not leased.lost
    leased.release()

    study.resume()
    again = study.lease(HERE, lease_s=60.0, renew_s=0.05)
    assert again is not None
    assert (again.number, again.draining) == (leased.number, False)
    again.release()


def test_drain_of_one_study_leaves_others_alone(storage: Storage) -> None:
    make(storage, name="one").drain()
    other = make(storage, name="other")
    assert not other.is_draining()
    leased = other.lease(HERE, lease_s=60.0, renew_s=1.0)
    assert leased is not None
    leased.release()
