import json
import time
from collections.abc import Callable
from dataclasses import asdict

import optuna
import pytest
from sqlalchemy import text

from kdhpc.errors import UnknownStudyError
from kdhpc.study.leased_trial import Owner
from kdhpc.study.status import read_status, study_names, top_trials
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.databases import drop_tables
from tests.study.made import SPLIT, definition

HERE = Owner.current(job="17_3")
PRUNED, COMPLETE = "pruned", "complete"


_GIVEN = ("given_trials", "given", "lead", "unconfirmed")


def make(storage: Storage, name: str = "tiny", target: int = 4, **changes: object) -> SharedStudy:
    return SharedStudy.create_or_open(storage, definition(name, **changes), SPLIT, target=target)


def run(study: SharedStudy, end: str, *values: float) -> None:
    leased = study.lease(HERE, lease_s=60, renew_s=20)
    assert leased is not None
    for epoch, value in zip((1, 2, 4), values, strict=False):
        leased.report(epoch, value)
    if end == PRUNED:
        leased.prune()
    else:
        leased.complete(values[-1])


def test_status_counts_rungs_workers_and_the_best(storage: Storage) -> None:
    study = make(storage, target=10, max_attempts=1)
    run(study, COMPLETE, 50.0, 60.0, 70.0)
    run(study, PRUNED, 20.0)
    run(study, COMPLETE, 54.0, 61.0, 72.5)
    run(study, PRUNED, 58.0, 40.0)
    run(study, COMPLETE, 51.0, 62.0, 72.5)
    failed = study.lease(HERE, lease_s=60, renew_s=20)
    failed.report(1, 99.0)
    failed.crash("out of memory")
    running = study.lease(HERE, lease_s=60, renew_s=20)
    running.report(1, 56.0)
    vanished = study.lease(HERE, lease_s=0.05, renew_s=60)
    time.sleep(0.2)

    status = asdict(read_status(storage, "tiny"))
    keys = ["study", "target", "draining", "precision", "trials", "best", "rungs", "workers", "crashes"]
    keys += ["diverged", "foreign_trials", "trials_per_hour", "seconds_to_go", "hours_used", "max_gpu_hours", "goal"]
    assert list(status) == [*keys, *_GIVEN]
    assert (status["study"], status["target"], status["draining"]) == ("tiny", 10, False)
    counts = {"complete": 3, "pruned": 2, "diverged": 0, "running": 1, "waiting": 3, "failed": 1, "beyond_hours": 0}
    assert status["trials"] == counts
    assert status["best"] == {"number": 2, "value": 72.5, "confirmed": None}, "the earlier of two equals"
    assert status["rungs"] == (
        {"epoch": 1, "reached": 6, "survived": 5, "median": 52.5},
        {"epoch": 2, "reached": 4, "survived": 3, "median": 60.5},
        {"epoch": 4, "reached": 3, "survived": 3, "median": 72.5},
    )
    alive, lost = status["workers"]
    assert {key: alive[key] for key in ("host", "pid", "job", "trial", "lost")} == {
        "host": HERE.host,
        "pid": HERE.pid,
        "job": "17_3",
        "trial": running.number,
        "lost": False,
    }
    assert (lost["trial"], lost["lost"]) == (vanished.number, True)
    assert 0.2 <= lost["lease_age_s"] < 30
    crash = {"number": 5, "attempts": 1, "state": "failed", "reason": "out of memory", "job": "17_3"}
    assert status["crashes"] == (crash,)
    json.dumps(status)


def test_status_names_what_crashed_until_it_went_well(storage: Storage) -> None:
    study = make(storage, target=1)

    def crashes() -> list[tuple[int, str, str]]:
        return [(crash.attempts, crash.state, crash.reason) for crash in read_status(storage, "tiny").crashes]

    study.lease(HERE, lease_s=60, renew_s=20).crash("RuntimeError: once")
    assert crashes() == [(1, "waiting", "RuntimeError: once")]
    again = study.lease(HERE, lease_s=60, renew_s=20)
    assert crashes() == [(2, "running", "RuntimeError: once")]
    again.complete(50.0)
    assert crashes() == []


def test_status_speed_follows_from_the_time_worked_and_the_workers(storage: Storage) -> None:
    study = make(storage, target=6)
    assert (read_status(storage, "tiny").trials_per_hour, read_status(storage, "tiny").seconds_to_go) == (None, None)
    for _ in range(2):
        run(study, COMPLETE, 1.0, 2.0, 3.0)
    storage.write(lambda connection: connection.execute(text("UPDATE kdhpc_slots SET worked_s = 100 * (slot + 1)")))
    idle = read_status(storage, "tiny")
    assert (idle.trials_per_hour, idle.seconds_to_go) == (0.0, None)
    leases = [study.lease(HERE, lease_s=60, renew_s=20) for _ in range(2)]
    busy = read_status(storage, "tiny")
    # 150 s a trial, two at a time; two running, half done on average, and two to come.
    assert (busy.trials_per_hour, busy.seconds_to_go) == (48.0, 225.0)
    for leased in leases:
        leased.complete(1.0)
    for _ in range(2):
        run(study, COMPLETE, 1.0)
    assert read_status(storage, "tiny").seconds_to_go == 0.0


def test_status_time_worked_leaves_out_the_time_between_leases(storage: Storage) -> None:
    study = make(storage, target=1)
    leased = study.lease(HERE, lease_s=60, renew_s=20)
    leased.release()
    time.sleep(5.0)
    study.lease(HERE, lease_s=60, renew_s=20).complete(50.0)
    assert top_trials(storage, "tiny", 1)[0].worked_s < 4.5


def test_status_under_load_is_of_one_moment(storage: Storage, start_worker: Callable[..., object]) -> None:
    make(storage, target=40)
    workers = [start_worker("tiny", epoch_s=0.02) for _ in range(2)]
    seen = set()
    while (status := read_status(storage, "tiny")).trials.complete + status.trials.pruned < 40:
        trials = status.trials
        assert trials.target == status.target == 40
        assert len(status.workers) == trials.running
        assert (status.best is not None) == (trials.complete > 0)
        reached = [rung.reached for rung in status.rungs]
        assert reached == sorted(reached, reverse=True)
        survivors = status.rungs[-1].survived if len(status.rungs) == 3 else 0
        assert trials.complete <= survivors <= trials.complete + trials.running
        seen.add((trials.complete, trials.pruned, trials.running))
    assert len(seen) > 5
    for worker in workers:
        worker.rest()


def test_top_trials_are_the_best_complete_ones_with_their_graphs(storage: Storage) -> None:
    study = make(storage, target=5, pruner="none")
    for value in (50.0, 90.0, 70.0, 90.0):
        run(study, COMPLETE, value)
    run(study, PRUNED, 99.0)
    top = top_trials(storage, "tiny", 3)
    assert [(trial.number, trial.value) for trial in top] == [(1, 90.0), (3, 90.0), (2, 70.0)]
    assert [trial.graph for trial in top] == [study.definition.space.graph(0, slot) for slot in (1, 3, 2)]
    assert len(top_trials(storage, "tiny", 99)) == 4


def test_study_names_are_those_of_kdhpc(storage: Storage, storage_url: str) -> None:
    drop_tables(storage_url)
    assert study_names(storage) == ()
    optuna.create_study(study_name="foreign", storage=storage_url, direction="maximize")
    make(storage, "later")
    make(storage, "earlier")
    assert study_names(storage) == ("earlier", "later")
    with pytest.raises(UnknownStudyError, match="unknown study 'foreign': there are earlier, later"):
        read_status(storage, "foreign")
    with pytest.raises(UnknownStudyError, match="did you mean 'later'"):
        top_trials(storage, "latter", 1)


def test_status_of_a_study_that_was_deleted_and_made_again_is_another_ones(storage: Storage) -> None:
    old = make(storage)
    assert read_status(storage, "tiny", uid=old.uid).target == 4
    old.delete()
    with pytest.raises(UnknownStudyError, match="unknown study 'tiny'"):
        read_status(storage, "tiny", uid=old.uid)
    new = make(storage, target=5)
    with pytest.raises(UnknownStudyError, match="study 'tiny' was deleted meanwhile, and another one of that name"):
        read_status(storage, "tiny", uid=old.uid)
    assert read_status(storage, "tiny", uid=new.uid).target == 5
