import numpy as np
import optuna
import pytest

from kdhpc.errors import StudyError
from kdhpc.study.storage import Storage
from tests.study.made import EPOCHS, HERE, make, optuna_trials, take


def test_report_prunes_exactly_below_the_median_of_the_others(storage: Storage) -> None:
    rng = np.random.default_rng(3)
    study = make(storage, target=40)
    reports: dict[int, list[float]] = {epoch: [] for epoch in EPOCHS}
    decisions = []
    while (claim := study.claim(HERE, lease_s=60, renew_s=20)) is not None:
        for epoch in EPOCHS:
            # Few different values, so that many reports equal the median.
            value = float(rng.integers(0, 8))
            others = list(reports[epoch])
            reports[epoch].append(value)
            expected = epoch != EPOCHS[-1] and bool(others) and value < float(np.median(others))
            assert claim.report(epoch, value) is expected, (epoch, value, others)
            assert claim.report(epoch, value + 50) is expected, "a repeated report keeps its value"
            decisions.append(expected)
            if expected:
                claim.prune()
                break
        else:
            claim.complete(value)
    assert len(reports[1]) == 40
    assert 15 < sum(decisions) < 40


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


def test_report_asha_decides_as_optunas_successive_halving(storage: Storage) -> None:
    rng = np.random.default_rng(1)
    table = rng.uniform(0, 100, size=(12, len(EPOCHS)))
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2, min_early_stopping_rate=0)
    reference = optuna.create_study(direction="maximize", pruner=pruner)
    study = make(storage, pruner="asha", target=12)
    pruned = 0
    for row in table:
        trial, claim = reference.ask(), take(study)
        for epoch, value in zip(EPOCHS, row, strict=True):
            trial.report(value, epoch)
            expected = epoch != EPOCHS[-1] and trial.should_prune()
            assert claim.report(epoch, value) is expected
            if expected:
                claim.prune()
                reference.tell(trial, state=optuna.trial.TrialState.PRUNED)
                pruned += 1
                break
        else:
            claim.complete(value)
            reference.tell(trial, value)
    assert 0 < pruned < 12


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_report_value_not_finite_is_refused(storage: Storage, storage_url: str, value: float) -> None:
    claim = take(make(storage))
    with pytest.raises(StudyError, match="epoch 2"):
        claim.report(2, value)
    with pytest.raises(StudyError, match="finite"):
        claim.complete(value)
    assert optuna_trials(storage_url)[0].intermediate_values == {}
