"""Optuna's own functions on a study of kdhpc: they make no trial that kdhpc would have to count."""

import time
from collections.abc import Callable

import optuna
import pytest
from sqlalchemy.exc import IntegrityError

from kdhpc.cli.main import main
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from kdhpc.study.summary import read_status, top_trials
from tests.study.made import make, optuna_trials, take


def load(url: str, name: str = "tiny") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=url)


def finish(study: SharedStudy, *values: float) -> None:
    for value in values:
        claim = take(study)
        claim.report(1, value)
        claim.complete(value)


def a_trial(value: float) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(value=value, intermediate_values={1: value, 2: value})


MAKES_TRIALS: dict[str, Callable[[optuna.Study], object]] = {
    "enqueue_trial": lambda study: study.enqueue_trial({"label_1_gate": "through"}),
    "add_trial": lambda study: study.add_trial(a_trial(99.0)),
    "add_trials": lambda study: study.add_trials([a_trial(99.0), a_trial(98.0)]),
    "ask": lambda study: study.ask(),
    "optimize": lambda study: study.optimize(lambda trial: 99.0, n_trials=1),
}


@pytest.mark.parametrize("how", MAKES_TRIALS)
def test_foreign_trial_is_refused_at_once_while_slots_are_open(storage: Storage, storage_url: str, how: str) -> None:
    study = make(storage, target=2, pruner="none")
    take(study).release()
    opened, began = load(storage_url), time.monotonic()
    with pytest.raises(IntegrityError, match=r"study 'tiny' is kdhpc's and not finished: .*--study tiny --trials N`"):
        MAKES_TRIALS[how](opened)
    assert time.monotonic() - began < 30
    finish(study, 50.0, 60.0)
    assert [(trial.number, trial.value) for trial in optuna_trials(storage_url)] == [(0, 50.0), (1, 60.0)]
    assert load(storage_url).best_value == 60.0
    assert read_status(storage, "tiny").foreign == 0


def test_foreign_end_of_a_trial_that_a_worker_holds_is_refused(storage: Storage, storage_url: str) -> None:
    study = make(storage, target=1)
    claim = take(study)
    claim.report(1, 40.0)
    with pytest.raises(optuna.exceptions.StorageInternalError) as caught:
        load(storage_url).tell(0, 99.0)
    assert "trial 0 of study 'tiny' is kdhpc's: only the worker that holds it ends it" in str(caught.value.__cause__)
    claim.release()
    with pytest.raises(optuna.exceptions.StorageInternalError):
        load(storage_url).tell(0, state=optuna.trial.TrialState.FAIL)
    take(study).complete(50.0)
    assert [(trial.state.name, trial.value) for trial in optuna_trials(storage_url)] == [("COMPLETE", 50.0)]


def test_foreign_trials_of_a_finished_study_are_in_no_count_and_share_no_number(
    storage: Storage, storage_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make(storage, target=2)
    finish(study, 50.0, 60.0)
    opened = load(storage_url)
    opened.enqueue_trial({"label_1_gate": "through"})
    opened.add_trials([a_trial(99.0), a_trial(1.0)])
    asked = opened.ask()
    asked.report(98.0, 1)

    def ours() -> tuple[object, ...]:
        status = read_status(storage, "tiny")
        rungs = [(rung.epoch, rung.reached, rung.median) for rung in status.rungs]
        return status.target, status.trials.finished, status.best.value, rungs, status.foreign

    assert ours() == (2, 2, 60.0, [(1, 2, 55.0)], 3 + 0)
    assert main(["status", "--study", "tiny"]) == 0
    assert "foreign  3 trials" in " ".join(capsys.readouterr().out.split("\n"))
    study.resize(4)
    # They may go on with theirs, and make no others.
    opened.tell(asked, 97.0)
    with pytest.raises(IntegrityError, match="not finished"):
        opened.enqueue_trial({})
    first, second = take(study), take(study)
    assert {first.number, second.number}.isdisjoint(range(5)), "two, and those of Optuna's"
    assert first.report(1, 52.0) is True, "below the median of 50 and 60"
    first.prune()
    second.report(1, 58.0)
    second.complete(58.0)
    assert ours() == (4, 4, 60.0, [(1, 4, 55.0)], 3)
    numbers = sorted(trial.number for trial in optuna_trials(storage_url))
    assert numbers == list(range(len(numbers))), "each once, without a gap"
    assert [trial.value for trial in top_trials(storage, "tiny", 9)] == [60.0, 58.0, 50.0]
