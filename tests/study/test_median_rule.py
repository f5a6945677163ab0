import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import optuna
import pytest

from kdhpc.errors import StudyError, StudyMismatchError
from kdhpc.study.leased_trial import LeasedTrial
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.study.made import EPOCHS, HERE, make, optuna_trials, scalar, take

ELSEWHERE = replace(HERE, host="elsewhere", token="e" * 32)


def test_report_prunes_exactly_below_the_median_of_the_others(storage: Storage) -> None:
    rng = np.random.default_rng(3)
    study = make(storage, target=40)
    reports: dict[int, list[float]] = {epoch: [] for epoch in EPOCHS}
    decisions = []
    while (leased := study.lease(HERE, lease_s=60, renew_s=20)) is not None:
        for epoch in EPOCHS:
            # Few different values, so that many reports equal the median.
            value = float(rng.integers(0, 8))
            others = list(reports[epoch])
            reports[epoch].append(value)
            expected = epoch != EPOCHS[-1] and is_below(value, others)
            assert leased.report(epoch, value) is expected, (epoch, value, others)
            assert leased.report(epoch, value + 50) is expected, "a repeated report keeps its value"
            decisions.append(expected)
            if expected:
                leased.prune()
                break
        else:
            leased.complete(value)
    assert len(reports[1]) == 40
    assert 15 < sum(decisions) < 40


def is_below(value: float, others: list[float]) -> bool:
    return bool(others) and bool(value < np.median(others))


# Many ties; fewer; as accuracies come; below zero.
_SHAPES = {
    "ties": lambda rng: float(rng.integers(0, 4)),
    "near": lambda rng: 50 + int(rng.integers(0, 9)) / 32,
    "images": lambda rng: 100 * int(rng.integers(0, 300)) / 3000,
    "any": lambda rng: float(rng.normal(0, 1)),
}


@pytest.mark.parametrize("shape", _SHAPES)
def test_report_of_many_trials_at_a_time_decides_by_the_median_of_those_that_did_not_fail(
    storage: Storage, shape: str
) -> None:
    rng = np.random.default_rng(11)
    study = make(storage, target=60, max_attempts=1)
    leases = {leased.slot: leased for leased in (take(study) for _ in range(60))}
    reports: dict[int, dict[int, float]] = {epoch: {} for epoch in EPOCHS}
    answers: dict[tuple[int, int], bool] = {}
    while leases:
        slot = int(rng.choice(list(leases)))
        leased = leases[slot]
        if rng.random() < 0.1:
            leases.pop(slot).crash("out of memory")
            for values in reports.values():
                values.pop(slot, None)
            continue
        epoch = next((epoch for epoch in EPOCHS[:-1] if slot not in reports[epoch]), None)
        if epoch is None:
            epoch = int(rng.choice(EPOCHS[:-1]))  # Resumed from before this report: told what was told then.
            assert leases.pop(slot).report(epoch, _SHAPES[shape](rng)) is answers[slot, epoch]
            continue
        value = _SHAPES[shape](rng)
        others = list(reports[epoch].values())
        reports[epoch][slot] = value
        answers[slot, epoch] = leased.report(epoch, value)
        assert answers[slot, epoch] is is_below(value, others), (epoch, value, sorted(others))
    assert 30 < sum(answers.values()) < len(answers) - 30
    assert scalar(storage, "SELECT count(*) FROM kdhpc_reports") == sum(len(values) for values in reports.values())


@pytest.mark.parametrize(
    ("others", "value", "prunes"),
    [
        ([], 50.0, False),
        ([50.0], 50.0, False),
        ([50.0, 51.0], 50.25, True),
        ([50.0, 51.0], 50.5, False),
        ([50.0, 51.0], 50.0, True),
        ([50.0, 50.0], 50.0, False),
        ([40.0, 50.0, 50.0, 60.0], 49.99, True),
        ([40.0, 50.0, 50.0, 60.0], 50.0, False),
        ([40.0, 50.0, 60.0], 49.99, True),
        ([40.0, 50.0, 60.0], 50.0, False),
        ([10.0, 20.0, 80.0, 90.0], 49.0, True),
        ([10.0, 20.0, 80.0, 90.0], 50.0, False),
    ],
)
def test_report_at_the_middle_is_pruned_if_below_the_mean_of_the_two_middle_ones(
    storage: Storage, others: list[float], value: float, prunes: bool
) -> None:
    study = make(storage, target=len(others) + 1)
    for other in others:
        take(study).report(1, other)
    assert is_below(value, others) is prunes
    assert take(study).report(1, value) is prunes


def test_reports_at_the_same_moment_are_all_counted(storage: Storage) -> None:
    study = make(storage, target=41)
    leases = [take(study) for _ in range(40)]
    values = [50 + (slot % 5) / 64 for slot in range(40)]
    together = threading.Barrier(8)

    def report(first: int) -> None:
        together.wait()
        for leased, value in list(zip(leases, values, strict=True))[first::8]:
            leased.report(1, value)

    threads = [threading.Thread(target=report, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scalar(storage, "SELECT count(*) FROM kdhpc_reports") == 40
    middle = float(np.median(values))
    last: LeasedTrial = take(study)
    assert last.report(1, middle) is False
    assert last.report(2, middle) is False, "nobody else was there"


def test_report_counts_running_trials_and_no_failed_ones(storage: Storage) -> None:
    study = make(storage, max_attempts=1)
    running, failed, judged = take(study), take(study), take(study)
    assert running.report(1, 40.0) is False, "the first trial has nothing to be compared with"
    assert failed.report(1, 99.0) is False
    failed.crash("out of memory")
    assert judged.report(1, 40.0) is False, "equal to the median is not below it"
    fourth = take(study)
    assert fourth.report(1, 39.0) is True


def test_report_without_pruner_never_prunes(storage: Storage) -> None:
    study = make(storage, pruner="none")
    first, second = take(study), take(study)
    assert [first.report(1, 90.0), second.report(1, 1.0)] == [False, False]


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_nothing_is_pruned_before_the_first_epoch_that_may(storage: Storage, pruner: str) -> None:
    study = make(storage, pruner=pruner, prune_from=2)
    first, second = take(study), take(study)
    assert [first.report(1, 90.0), second.report(1, 1.0)] == [False, False]
    assert [first.report(2, 50.0), second.report(2, 49.0)] == [False, True]
    with pytest.raises(StudyMismatchError, match="prune_from was 2, is 1"):
        make(storage, pruner=pruner)


def test_report_asha_decides_as_optunas_successive_halving(storage: Storage) -> None:
    rng = np.random.default_rng(1)
    table = rng.uniform(0, 100, size=(12, len(EPOCHS)))
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2, min_early_stopping_rate=0)
    reference = optuna.create_study(direction="maximize", pruner=pruner)
    study = make(storage, pruner="asha", target=12)
    pruned = 0
    for row in table:
        trial, leased = reference.ask(), take(study)
        for epoch, value in zip(EPOCHS, row, strict=True):
            trial.report(value, epoch)
            expected = epoch != EPOCHS[-1] and trial.should_prune()
            assert leased.report(epoch, value) is expected
            if expected:
                leased.prune()
                reference.tell(trial, state=optuna.trial.TrialState.PRUNED)
                pruned += 1
                break
        else:
            leased.complete(value)
            reference.tell(trial, value)
    assert 0 < pruned < 12


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_report_value_not_finite_is_refused(storage: Storage, storage_url: str, value: float) -> None:
    leased = take(make(storage))
    with pytest.raises(StudyError, match="epoch 2"):
        leased.report(2, value)
    with pytest.raises(StudyError, match="finite"):
        leased.complete(value)
    assert optuna_trials(storage_url)[0].intermediate_values == {}


def test_asha_decides_as_optunas_successive_halving_whoever_reports_when(storage: Storage) -> None:
    """Many trials at a time, in any order, with ties; each answer is given again, whatever was reported since."""
    rng = np.random.default_rng(5)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2, min_early_stopping_rate=0)
    reference = optuna.create_study(direction="maximize", pruner=pruner)
    study = make(storage, pruner="asha", target=60, last_epoch=16)
    running = {leased.slot: (leased, reference.ask(), [1, 2, 4, 8, 16]) for leased in (take(study) for _ in range(60))}
    pruned = 0
    while running:
        slot = int(rng.choice(list(running)))
        leased, trial, epochs = running[slot]
        epoch, value = epochs.pop(0), float(rng.integers(0, 12))
        trial.report(value, epoch)
        expected = epoch != 16 and trial.should_prune()
        answers = [leased.report(epoch, value), leased.report(epoch, value + 3)]
        assert answers == [expected, expected], (slot, epoch, value)
        if expected or epoch == 16:
            pruned += expected
            (leased.prune if expected else lambda leased=leased, value=value: leased.complete(value))()
            del running[slot]
    assert 30 < pruned < 60


def resume(study: SharedStudy, leased: LeasedTrial) -> LeasedTrial:
    """The same trial, with another worker."""
    leased.release()
    again = take(study, ELSEWHERE)
    assert again.number == leased.number
    return again


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_answer_that_a_dying_worker_did_not_act_on_is_given_again(storage: Storage, pruner: str) -> None:
    study = make(storage, pruner=pruner, target=9)
    good, pruned = take(study), take(study)
    assert good.report(1, 60.0) is False
    assert pruned.report(1, 50.0) is True
    for value in (1.0, 2.0, 3.0, 4.0):
        take(study).report(1, value)
    # By what the others have reported since, both answers would be others.
    again = resume(study, pruned)
    assert again.report(1, 50.0) is True
    again.prune()
    for value in (90.0, 91.0, 92.0):
        take(study).report(1, value)
    assert resume(study, good).report(1, 60.0) is False


def test_answers_of_many_reports_are_the_first_ones(storage: Storage, start_worker: Callable[..., object]) -> None:
    """Workers that are killed anywhere, also between the answer and the end of their trial: each answer stands."""
    study = make(storage, target=8, pruner="asha", max_attempts=50)
    for _ in range(4):
        worker = start_worker("tiny", epoch_s=0.05)
        worker.next_line()
        worker.next_line()
        worker.kill()
        study.expire_dead()
    start_worker("tiny").rest()
    told = scalar(storage, "SELECT count(*) FROM kdhpc_slots WHERE pruned_at <> '{}'")
    assert told == study.progress().pruned
    assert study.progress().finished == 8
