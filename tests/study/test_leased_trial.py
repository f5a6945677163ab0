import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import optuna
import pytest
from sqlalchemy import text

from kdhpc.errors import LeaseLostError
from kdhpc.study.allocation import allocate
from kdhpc.study.definition import trial_seed
from kdhpc.study.leased_trial import Owner
from kdhpc.study.outcome import Outcome
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.study.made import HERE, make, optuna_trials, scalar, states, take

ELSEWHERE = replace(HERE, host="elsewhere", token="e" * 32)


def test_lease_new_slot_gives_the_graph_and_seed_of_that_slot(storage: Storage) -> None:
    study = make(storage, seed=5)
    for slot in range(4):
        leased = take(study)
        assert (leased.slot, leased.number, leased.attempt, leased.reported) == (slot, slot, 1, ())
        assert leased.graph == study.definition.space.graph(5, slot)
        assert leased.seed == trial_seed(5, slot)
    assert study.lease(HERE, lease_s=60, renew_s=20) is None
    assert study.progress().unfinished
    assert len({trial_seed(seed, slot) for seed in range(20) for slot in range(20)}) == 400


def test_release_goes_on_with_the_same_trial_and_counts_no_attempt(storage: Storage) -> None:
    study = make(storage, max_attempts=2)
    first = take(study)
    first.report(1, 50.0)
    first.report(2, 60.0)
    first.release()
    first.release()
    for _ in range(5):
        leased = take(study)
        assert (leased.number, leased.slot, leased.attempt) == (0, 0, 1)
        assert leased.reported == (1, 2)
        assert leased.graph == first.graph
        assert leased.seed == first.seed
        leased.release()
    assert study.progress().waiting == 4


def test_crash_gives_up_after_the_last_attempt(storage: Storage, storage_url: str) -> None:
    study = make(storage, max_attempts=2, target=2)
    leased = take(study)
    leased.crash("RuntimeError: first")
    leased = take(study, ELSEWHERE)
    assert (leased.number, leased.attempt) == (0, 2)
    leased.crash("RuntimeError: second")
    failed = optuna_trials(storage_url)[0]
    assert failed.state is optuna.trial.TrialState.FAIL
    assert failed.user_attrs["kdhpc"]["reason"] == "RuntimeError: second"
    assert take(study).number == 1
    counts = study.progress()
    assert (counts.failed, counts.running, counts.waiting, counts.target) == (1, 1, 0, 2)


def test_crashed_trial_goes_on_elsewhere_and_its_machine_gets_fresh_ones(storage: Storage) -> None:
    study = make(storage, target=3)
    take(study).crash("CUDA error: this GPU is broken")
    neighbour = replace(HERE, token="n" * 32)
    assert take(study, neighbour).number == 1
    taken = take(study, ELSEWHERE)
    assert (taken.number, taken.attempt) == (0, 2)


def test_crashed_trial_is_left_to_others_for_a_while_where_there_are_any(storage: Storage) -> None:
    study = make(storage, target=2)
    crashing = take(study)
    busy = take(study, ELSEWHERE)
    crashing.crash("CUDA error: this GPU is broken")
    neighbour = replace(HERE, token="n" * 32)
    assert study.lease(HERE, lease_s=60, renew_s=20) is None
    assert study.lease(neighbour, lease_s=60, renew_s=20) is None
    assert study.progress().waiting == 1
    # The lease's length, for each attempt that crashed.
    storage.write(
        lambda connection: connection.execute(text("UPDATE kdhpc_slots SET renewed = renewed - interval '61 seconds'"))
    )
    again = take(study)
    assert (again.number, again.attempt) == (crashing.number, 2)
    again.crash("CUDA error: this GPU is broken")
    busy.complete(50.0)
    assert take(study, ELSEWHERE).attempt == 3


def test_crashed_trial_is_taken_by_another_process_of_the_only_machine(storage: Storage) -> None:
    study = make(storage, target=2)
    crashing = take(study)
    neighbour = replace(HERE, token="n" * 32)
    busy = take(study, neighbour)
    crashing.crash("CUDA error: this GPU is broken")
    assert study.lease(HERE, lease_s=60, renew_s=20) is None
    busy.complete(50.0)
    assert take(study, neighbour).number == crashing.number


def test_crashed_trial_is_tried_again_at_once_by_a_lone_worker(storage: Storage) -> None:
    study = make(storage, target=1)
    for attempt in (1, 2, 3):
        leased = take(study)
        assert leased.attempt == attempt
        leased.crash("ValueError: the graph is at fault")
    assert study.progress().unfinished == 0


def test_lease_after_workers_vanished_too_often_fails_the_slot(storage: Storage, storage_url: str) -> None:
    study = make(storage, max_attempts=2, target=2)
    for attempt in (1, 2):
        leased = take(study, lease_s=0.05)
        assert (leased.number, leased.attempt) == (0, attempt)
        leased._ended.set()  # As if the process were killed: nobody renews.
        time.sleep(0.2)
    assert take(study).number == 1
    failed = optuna_trials(storage_url)[0]
    assert failed.state is optuna.trial.TrialState.FAIL
    assert "2 attempts" in failed.user_attrs["kdhpc"]["reason"]
    assert study.progress().failed == 1
    assert scalar(storage, "SELECT attempts FROM kdhpc_slots WHERE slot = 0") == 2


def test_lease_lost_to_another_worker_writes_nothing(storage: Storage, storage_url: str) -> None:
    study = make(storage, pruner="none")
    late = take(study, lease_s=0.05)
    late.report(1, 50.0)
    late._ended.set()  # As if the process were frozen: nobody renews.
    time.sleep(0.2)
    new = take(study, owner=Owner.current(job="other"))
    assert (new.number, new.attempt, new.reported) == (0, 2, (1,))
    with pytest.raises(LeaseLostError, match=rf"slot 0 \(trial 0 of study 'tiny'\).*process {HERE.pid}"):
        late.report(2, 99.0)
    assert late.lost
    for ending in (lambda: late.complete(99.0), late.prune):
        with pytest.raises(LeaseLostError):
            ending()
    late.crash("too late")
    late.release()
    assert optuna_trials(storage_url)[0].intermediate_values == {1: 50.0}
    assert states(storage_url) == ["RUNNING"]
    assert new.report(2, 60.0) is False
    new.complete(70.0)
    assert optuna_trials(storage_url)[0].value == 70.0


def eventually(check: Callable[[], bool]) -> bool:
    until = time.monotonic() + 60
    while not check() and time.monotonic() < until:
        time.sleep(0.02)
    return check()


def test_lease_is_renewed_while_the_trial_runs_and_its_loss_is_noticed(storage: Storage) -> None:
    study = make(storage, target=1)
    leased = take(study, lease_s=6.0)
    query = "SELECT EXTRACT(epoch FROM expires) FROM kdhpc_slots WHERE slot = 0"
    began = scalar(storage, query)
    assert eventually(lambda: scalar(storage, query) > began)
    assert not leased.lost
    assert study.lease(HERE, lease_s=60, renew_s=20) is None
    assert study.expire([HERE]) == 1
    thief = take(study)
    assert (thief.number, thief.attempt) == (0, 2)
    assert eventually(lambda: leased.lost)
    assert not thief.lost


def test_ended_lease_leaves_no_thread_behind(storage: Storage) -> None:
    study = make(storage)
    before = set(threading.enumerate())
    leased = study.lease(HERE, lease_s=60, renew_s=0.05)
    assert leased is not None
    (renewing,) = set(threading.enumerate()) - before
    leased.release()
    assert eventually(lambda: not renewing.is_alive())


def test_drain_asks_for_the_slots_and_gives_none_out_until_resume(storage: Storage) -> None:
    study = make(storage)
    leased = study.lease(HERE, lease_s=60, renew_s=0.05)
    assert leased is not None
    assert not leased.draining
    study.drain()
    assert SharedStudy.open(storage, "tiny").is_draining()
    assert study.lease(HERE, lease_s=60, renew_s=20) is None
    assert eventually(lambda: leased.draining)
    assert not leased.lost
    leased.release()
    study.resume()
    assert take(study).number == leased.number


def test_report_rung_ends_the_trial_where_the_study_decides_so(storage: Storage, storage_url: str) -> None:
    study = make(storage, target=2)
    first, second = take(study), take(study)
    for epoch, outcome in ((1, None), (2, None), (4, Outcome.COMPLETE)):
        assert first.report_rung(epoch, 60.0 + epoch) is outcome
    for _ in range(2):
        assert second.report_rung(1, 61.0) is None, "not below the median"
    assert second.report_rung(2, 10.0) is Outcome.PRUNED
    assert states(storage_url) == ["COMPLETE", "PRUNED"]
    assert optuna_trials(storage_url)[0].value == 64.0
    counts = study.progress()
    assert (counts.complete, counts.pruned, counts.unfinished) == (1, 1, 0)


def test_complete_repeated_after_a_lost_answer_is_accepted(storage: Storage, storage_url: str) -> None:
    leased = take(make(storage))
    leased.complete(61.0)
    # The commit happened and its answer was lost: the call is made again.
    leased.complete(61.0)
    assert optuna_trials(storage_url)[0].values == [61.0]


def test_lease_transaction_that_dies_leaves_no_trial_behind(storage: Storage, storage_url: str) -> None:
    study = make(storage)
    study_id = scalar(storage, "SELECT study_id FROM kdhpc_studies")

    def dies(connection: object) -> None:
        held = allocate(connection, study_id, study.definition, HERE, token="t" * 32, lease_s=60, takes_over=True)
        assert held is not None
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            storage.write(dies)
    assert optuna_trials(storage_url) == []
    assert take(study).number == 0


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_lease_waits_for_no_other_and_a_trial_has_the_number_of_its_slot(
    storage: Storage, storage_url: str, sampler: str
) -> None:
    study = make(storage, sampler=sampler, target=3)
    study_id = scalar(storage, "SELECT study_id FROM kdhpc_studies")
    other = Storage.connect()

    def dies(connection: object) -> None:
        allocate(connection, study_id, study.definition, HERE, token="t" * 32, lease_s=60, takes_over=True)
        passed = take(SharedStudy.open(other, "tiny"))
        assert (passed.slot, passed.number) == (1, 1)
        passed.complete(50.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.write(dies)
    other.close()
    # Number 0 is not there yet.
    opened = optuna.load_study(study_name="tiny", storage=storage_url)
    assert [trial.number for trial in opened.trials] == [1]
    assert (opened.best_trial.number, len(opened.trials_dataframe()), study.num_begun()) == (1, 1, 1)
    assert [(leased.slot, leased.number) for leased in (take(study), take(study))] == [(0, 0), (2, 2)]
    assert [trial.number for trial in optuna_trials(storage_url)] == [0, 1, 2]
    assert study.num_begun() == 3


def test_lease_repeated_after_a_lost_answer_gives_the_same_slot(storage: Storage) -> None:
    study = make(storage)
    study_id = scalar(storage, "SELECT study_id FROM kdhpc_studies")
    twice = [
        storage.write(
            lambda c: allocate(c, study_id, study.definition, HERE, token="t" * 32, lease_s=60, takes_over=True)
        )
        for _ in range(2)
    ]
    assert twice[0] == twice[1]
    assert study.progress().running == 1


def test_worker_killed_in_mid_trial_is_followed_by_another_on_the_same_trial(
    storage: Storage, storage_url: str, start_worker: Callable[..., object]
) -> None:
    study = make(storage, target=3, pruner="none")
    killed = start_worker("tiny", epoch_s=2)
    begun = killed.next_line()
    while scalar(storage, "SELECT count(*) FROM trial_intermediate_values") == 0:
        time.sleep(0.05)
    assert study.expire_dead() == 0, "it is alive"
    killed.kill()
    assert study.expire_dead() == 1
    told = start_worker("tiny").rest()
    assert (told[0]["number"], told[0]["slot"], told[0]["attempt"]) == (begun["number"], begun["slot"], 2)
    assert told[0]["reported"] == [1]
    assert states(storage_url) == ["COMPLETE"] * 3
    owners = optuna_trials(storage_url)[0].user_attrs["kdhpc"]["owners"]
    assert [owner["attempt"] for owner in owners] == [1, 2]
    assert owners[0]["pid"] == begun["pid"]


def test_owner_is_gone_only_where_its_process_is_known_to_have_ended() -> None:
    assert not HERE.is_gone
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert replace(HERE, pid=ended.pid).is_gone
    assert replace(HERE, process_start=HERE.process_start + 1).is_gone, "the id went to another process"
    elsewhere = replace(HERE, pid=ended.pid, process_space="another machine")
    assert not elsewhere.is_gone
