"""The budget in hours: what counts, and what it ends."""

from dataclasses import replace

import pytest
from sqlalchemy import text

from kdhpc.study.leased_trial import LeasedTrial
from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage
from tests.study.made import HERE, make, take

THERE = replace(HERE, host="elsewhere", token="0" * 32)


def begun_before(storage: Storage, trial: LeasedTrial, hours: float) -> LeasedTrial:
    """As if it had been leased so long ago."""
    storage.write(
        lambda connection: connection.execute(
            text("UPDATE kdhpc_slots SET claimed = claimed - :hours * interval '1 hour' WHERE slot = :slot"),
            {"hours": hours, "slot": trial.slot},
        )
    )
    return trial


def took(storage: Storage, trial: LeasedTrial, hours: float) -> None:
    begun_before(storage, trial, hours).report_rung(4, 50.0)


def test_hours_of_one_worker_count_once(storage: Storage) -> None:
    study = make(storage, pruner="none", target=9)
    assert study.hours().used == 0
    together = [take(study) for _ in range(3)]
    for trial, hours in zip(together, (1.0, 2.0, 1.5), strict=True):
        took(storage, trial, hours)
    assert study.hours().used == pytest.approx(2.0, abs=0.01)
    took(storage, take(study, THERE), 1.0)
    begun_before(storage, take(study, THERE), 0.5)  # It runs.
    assert study.hours().used == pytest.approx(3.0, abs=0.01)
    assert read_status(storage, "tiny").hours_used == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize("end", ["crash", "release", "expire", "fail"])
def test_hours_of_attempts_count(storage: Storage, end: str) -> None:
    study = make(storage, pruner="none", target=1, max_attempts=1 if end == "fail" else 3)
    trial = begun_before(storage, take(study), 2.0)
    if end == "expire":
        assert study.expire([HERE]) == 1
    elif end == "release":
        trial.release()
    else:
        trial.crash("a broken machine")
    assert study.hours().used == pytest.approx(2.0, abs=0.01)
    if end == "fail":
        study.retry()
    took(storage, take(study, THERE), 1.0)
    assert study.hours().used == pytest.approx(3.0, abs=0.01)


def test_hours_of_a_worker_that_vanished_count(storage: Storage) -> None:
    study = make(storage, pruner="none", target=1)
    trial = begun_before(storage, take(study), 2.0)
    trial._stop_renewing()
    storage.write(lambda connection: connection.execute(text("UPDATE kdhpc_slots SET expires = now() - interval '1s'")))
    took(storage, take(study, THERE), 1.0)
    assert study.hours().used == pytest.approx(3.0, abs=0.01)


def test_no_trial_begins_once_the_hours_are_used(storage: Storage) -> None:
    study = make(storage, pruner="none", target=6)
    study.allow_hours(2.0)
    took(storage, take(study), 1.9)
    running, interrupted = take(study), take(study)
    interrupted.release()
    begun_before(storage, running, 2.1)
    # What was begun goes on.
    again = take(study)
    assert again.slot == interrupted.slot
    assert study.lease(HERE, lease_s=60, renew_s=20) is None
    counts = study.progress()
    assert (counts.running, counts.waiting, counts.beyond_hours, counts.target) == (2, 0, 3, 6)
    for trial in (running, again):
        trial.report_rung(4, 50.0)
    assert study.progress().unfinished == 0
    # Given graphs are outside of that budget, too: a search whose hours are used can be confirmed.
    study.confirm(top=1, num_seeds=2)
    assert study.num_waiting() == 2
    for _ in range(2):
        given = take(study)
        assert given.number < 0
        given.report_rung(4, 50.0)
    assert study.lease(HERE, lease_s=60, renew_s=20) is None
    study.allow_hours(1.0)
    assert study.hours().budget == 2.0
    study.allow_hours(9.0)
    assert study.progress().waiting == 3
    assert take(study).slot == 3
