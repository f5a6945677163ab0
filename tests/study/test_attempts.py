"""What a failure costs: an attempt, if the trial came no further; and another chance for those that failed."""

import time
from dataclasses import replace

import numpy as np
import optuna
import pytest

from kdhpc.cli.main import main
from kdhpc.errors import LeaseLostError, StudyError
from kdhpc.study.leased_trial import LeasedTrial
from kdhpc.study.retrying import retry
from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.study.made import HERE, make, optuna_trials, scalar, states, take

ELSEWHERE = replace(HERE, host="elsewhere", token="e" * 32)


def kill(study: SharedStudy, leased: LeasedTrial) -> None:
    """As if the process were killed: nobody renews, and a launcher sees it."""
    leased._ended.set()
    leased._wake.set()
    assert study.expire([HERE]) == 1


def written(storage: Storage, step: int) -> None:
    """Wait until the database knows of a step."""
    deadline = time.monotonic() + 120
    while scalar(storage, "SELECT progress FROM kdhpc_slots WHERE slot = 0") < step:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_trial_that_is_killed_again_and_again_does_not_fail_while_it_comes_further(storage: Storage) -> None:
    study = make(storage, target=1, max_attempts=3)
    for kills in range(1, 8):
        leased = take(study)
        assert leased.attempt == min(kills, 2), "the one that came further, and this one"
        leased.advance(100 * kills)
        written(storage, 100 * kills)
        kill(study, leased)
    assert study.progress().failed == 0
    take(study).complete(50.0)
    assert study.progress().complete == 1


def test_trial_that_comes_no_further_fails_after_its_attempts(storage: Storage, storage_url: str) -> None:
    study = make(storage, target=1, max_attempts=3)
    leased = take(study)
    leased.advance(500)
    written(storage, 500)
    kill(study, leased)
    for attempt in (2, 3):
        leased = take(study)
        assert leased.attempt == attempt
        leased.advance(500)
        leased.advance(300)
        kill(study, leased)
    assert study.lease(HERE, lease_s=60, renew_s=20) is None
    assert states(storage_url) == ["FAIL"]
    assert "given up after 3 attempts" in read_status(storage, "tiny").crashes[0].reason


def test_crash_counts_the_attempts_since_the_trial_came_further(storage: Storage) -> None:
    study = make(storage, target=1, max_attempts=2)
    for step in (1, 2, 3, 4):
        leased = take(study)
        leased.advance(step)
        leased.crash("RuntimeError: at once after its checkpoint")
        assert study.progress().waiting == 1
    take(study).crash("RuntimeError: again")
    assert study.progress().failed == 1


def test_new_report_is_progress_and_a_repeated_one_is_none(storage: Storage) -> None:
    study = make(storage, target=1, max_attempts=2)
    for epoch in (1, 2):
        leased = take(study)
        leased.report(epoch, 50.0)
        leased.crash("RuntimeError")
    leased = take(study)
    leased.report(2, 50.0)
    leased.crash("RuntimeError")
    assert study.progress().failed == 1


def test_release_after_progress_leaves_no_attempt_behind(storage: Storage) -> None:
    study = make(storage, target=1)
    take(study).crash("RuntimeError")
    leased = take(study)
    assert leased.attempt == 2
    leased.advance(10)
    leased.release()
    assert scalar(storage, "SELECT attempts FROM kdhpc_slots") == 0
    assert take(study).attempt == 1


def test_advance_neither_blocks_nor_raises_without_a_lease(storage: Storage) -> None:
    study = make(storage, target=1)
    late = take(study)
    study.expire([HERE])
    new = take(study, ELSEWHERE)
    late.advance(10**12)
    with pytest.raises(LeaseLostError):
        late.report(1, 50.0)
    assert scalar(storage, "SELECT progress FROM kdhpc_slots") == 0
    new.advance(np.int64(7))
    new.release()
    new.advance(8)
    assert scalar(storage, "SELECT progress FROM kdhpc_slots") == 7


def fail(study: SharedStudy, *values: float, reason: str = "RuntimeError: broken") -> int:
    """Let the next trial report, and fail."""
    leased = take(study)
    for epoch, value in zip((1, 2), values, strict=False):
        leased.report(epoch, value)
    leased.crash(reason)
    return leased.number


def test_retry_gives_failed_trials_another_chance(storage: Storage, storage_url: str) -> None:
    study = make(storage, target=4, max_attempts=1)
    assert [fail(study, 90.0), fail(study, 80.0), fail(study)] == [0, 1, 2]
    take(study).complete(10.0)
    assert study.retry([2, 0]) == (0, 2)
    trials = optuna_trials(storage_url)
    assert [trial.state.name for trial in trials] == ["RUNNING", "FAIL", "RUNNING", "COMPLETE"]
    assert trials[0].datetime_complete is None
    assert ["reason" in trial.user_attrs["kdhpc"] for trial in trials[:3]] == [False, True, False]
    status = read_status(storage, "tiny")
    assert (status.trials.failed, status.trials.waiting, status.trials.complete) == (1, 2, 1)
    assert [crash.number for crash in status.crashes] == [1]
    again = take(study)
    assert (again.number, again.attempt, again.reported) == (0, 1, (1,))
    again.complete(91.0)
    assert study.retry() == (1,)
    assert study.retry() == ()
    for _ in range(2):
        take(study).complete(50.0)
    assert states(storage_url) == ["COMPLETE"] * 4
    assert study.progress().unfinished == 0
    with pytest.raises(StudyError, match=r"trial 3 is complete, trial 9 does not exist: only failed .*there are none"):
        study.retry([3, 9])


def test_retry_repeated_after_a_lost_answer_says_the_same(storage: Storage) -> None:
    study = make(storage, target=2, max_attempts=1)
    fail(study)
    study_id = scalar(storage, "SELECT study_id FROM kdhpc_studies")
    for numbers in ([0], None):
        twice = [
            storage.write(lambda c, numbers=numbers: retry(c, study_id, study.definition, numbers, token=f"{numbers}"))
            for _ in range(2)
        ]
        assert twice == [(0,), (0,)]
        fail(study)


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_retried_trials_count_in_decisions_again_with_the_answers_that_they_got(storage: Storage, pruner: str) -> None:
    study = make(storage, target=5, max_attempts=1, pruner=pruner)
    take(study).report(1, 50.0)
    told = take(study)
    assert told.report(1, 40.0) is True
    told.crash("killed before it was pruned")
    fail(study, 95.0)
    other = take(study)
    assert other.report(1, 60.0) is False, "the failed ones are left out"
    assert study.retry() == (1, 2)
    assert scalar(storage, "SELECT count(*) FROM kdhpc_reports WHERE epoch = 1") == 4
    again = {leased.number: leased for leased in (take(study), take(study))}
    assert again[1].report(1, 99.0) is True, "as it was told then"
    assert again[2].report(1, 0.0) is False
    # 50, 40, 95 and 60 decide: their median is 55, and the better half of five are two.
    assert take(study).report(1, 54.0) is True


def test_retry_command_says_which_and_refuses_others(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    study = make(storage, target=3, max_attempts=1)
    take(study).complete(1.0)

    def said(*words: str) -> tuple[int, str]:
        code = main(["retry", "--study", "tiny", *words])
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        return code, err

    assert said() == (0, "study tiny: no trial has failed\n")
    for _ in range(2):
        fail(study)
    code, err = said("--trial", "0")
    assert code == 1
    assert "trial 0 is complete: only failed trials of study 'tiny' can be tried again (1, 2)" in err
    assert study.progress().failed == 2
    assert said("--trial", "2") == (0, "study tiny: to be trained again: 2; `kdhpc search --study tiny` goes on\n")
    assert said()[1].startswith("study tiny: to be trained again: 1;")
    assert (study.progress().failed, study.progress().waiting) == (0, 2)


def test_diverged_trial_ends_uses_its_slot_and_is_never_best(
    storage: Storage, storage_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make(storage, target=4)
    for _ in range(2):
        leased = take(study)
        leased.report(1, 50.0)
        leased.complete(60.0)
    leased = take(study)
    leased.report(1, 99.0)
    leased.diverge(2, "the loss of node 1 is not finite")
    leased.diverge(2, "the loss of node 1 is not finite")
    first = take(study)
    first.diverge(1, "the weights of node 2 are not finite")
    status = read_status(storage, "tiny")
    counts = status.trials
    assert (counts.complete, counts.pruned, counts.diverged, counts.finished, counts.unfinished) == (2, 0, 2, 4, 0)
    assert [(trial.number, trial.epoch, trial.reason) for trial in status.diverged] == [
        (2, 2, "the loss of node 1 is not finite"),
        (3, 1, "the weights of node 2 are not finite"),
    ]
    assert (status.best.number, status.crashes) == (0, ())
    assert [(rung.epoch, rung.reached, rung.survived) for rung in status.rungs] == [(1, 3, 3)]
    opened = optuna.load_study(study_name="tiny", storage=storage_url)
    assert [trial.state.name for trial in opened.trials] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    assert [trial.value for trial in opened.trials] == [60.0, 60.0, 99.0, None]
    assert opened.best_value == 60.0
    marked = {"epoch": 2, "reason": "the loss of node 1 is not finite"}
    assert opened.trials[2].user_attrs["kdhpc"]["diverged"] == marked
    assert main(["status", "--study", "tiny"]) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "trials 2 complete, 0 pruned, 2 diverged, 0 running, 0 waiting, 0 failed" in shown
    head = shown.index("diverged epoch reason")
    assert shown[head + 1 :] == [
        "2 2 the loss of node 1 is not finite",
        "3 1 the weights of node 2 are not finite",
    ]


def test_diverged_after_its_lease_is_lost_changes_nothing(storage: Storage, storage_url: str) -> None:
    study = make(storage, target=1)
    late = take(study)
    study.expire([HERE])
    new = take(study, ELSEWHERE)
    with pytest.raises(LeaseLostError):
        late.diverge(1, "the loss of node 1 is not finite")
    assert (states(storage_url), study.progress().diverged) == (["RUNNING"], 0)
    new.complete(50.0)
    assert study.progress().complete == 1


def test_export_of_a_study_whose_trials_all_diverged_says_so(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make(storage, target=2)
    for _ in range(2):
        take(study).diverge(1, "the loss of node 1 is not finite")
    assert main(["export-best", "--study", "tiny"]) == 1
    assert "study 'tiny' has no complete trial, 2 of 2 diverged: nothing to export" in capsys.readouterr().err
