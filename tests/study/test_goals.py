"""Goals: which way is better, wherever the database decides or lists."""

import optuna
import pytest

from kdhpc.errors import StudyError, StudyMismatchError
from kdhpc.study.definition import to_json
from kdhpc.study.status import read_status, top_trials
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.study.made import SPLIT, definition, make, take

VALUES = (2.0, 1.0, 3.0)


@pytest.mark.parametrize("goal", ["nll", "node1"])
def test_goal_best_trials_and_optuna_go_its_way(storage: Storage, storage_url: str, goal: str) -> None:
    study = make(storage, pruner="none", goal=goal, target=len(VALUES))
    for value in VALUES:
        take(study).report_rung(4, value)
    best = min(VALUES) if goal == "nll" else max(VALUES)
    assert optuna.load_study(study_name="tiny", storage=storage_url).best_value == best
    status = read_status(storage, "tiny")
    assert (status.goal, status.best.value) == (goal, best)
    assert [trial.value for trial in top_trials(storage, "tiny", 9)] == sorted(VALUES, reverse=goal != "nll")


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_pruning_under_nll_ends_what_is_higher(storage: Storage, pruner: str) -> None:
    study = make(storage, pruner=pruner, goal="nll", target=8)
    trials = [take(study) for _ in range(5)]
    answers = [trial.report(1, value) for trial, value in zip(trials, (1.0, 2.0, 0.5, 3.0, 0.7), strict=True)]
    assert answers == [False, True, False, True, False]


def test_tpe_under_nll_prefers_what_is_lower(storage: Storage) -> None:
    study = make(storage, pruner="none", sampler="tpe", goal="nll", target=60)
    for number in range(60):
        trial = take(study)
        cost = sum(gate.value == "cutoff" for gate in trial.graph.label_gates)
        trial.report_rung(4, float(cost))
        if number == 24:
            early = [best.value for best in top_trials(storage, "tiny", 99)]
    late = [best.value for best in top_trials(storage, "tiny", 99)]
    assert sum(late) / len(late) < sum(early) / len(early)
    assert late[0] == 0


def test_study_without_a_goal_is_one_of_the_ensemble(storage: Storage) -> None:
    assert "goal" not in to_json(definition())
    make(storage)
    make(storage, goal="ensemble")
    with pytest.raises(StudyMismatchError, match='goal was "ensemble", is "nll"'):
        make(storage, goal="nll")


def test_optuna_study_of_the_other_direction_is_refused(storage: Storage, storage_url: str) -> None:
    make(storage)
    optuna.create_study(study_name="theirs", storage=storage_url, direction="maximize")
    with pytest.raises(StudyError, match="does not minimise"):
        SharedStudy.create_or_open(storage, definition("theirs", goal="nll"), SPLIT, target=1)
