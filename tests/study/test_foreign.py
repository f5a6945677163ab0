"""Optuna's own functions on a study of kdhpc: they make no trial that kdhpc would have to count."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from kdhpc.cli.main import main
from kdhpc.graph.space import graph_key
from kdhpc.graph.spec import Gate
from kdhpc.server.postgres import installed_programs
from kdhpc.study.optuna_view import OptunaView
from kdhpc.study.status import read_status, study_names, top_trials
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.databases import drop_tables
from tests.study.made import make, optuna_trials, scalar, take


def load(url: str, name: str = "tiny") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=url)


def finish(study: SharedStudy, *values: float) -> None:
    for value in values:
        leased = take(study)
        leased.report(1, value)
        leased.complete(value)


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
    assert read_status(storage, "tiny").foreign_trials == 0


def test_foreign_end_of_a_trial_that_a_worker_holds_is_refused(storage: Storage, storage_url: str) -> None:
    study = make(storage, target=1)
    leased = take(study)
    leased.report(1, 40.0)
    with pytest.raises(optuna.exceptions.StorageInternalError) as caught:
        load(storage_url).tell(0, 99.0)
    assert "trial 0 of study 'tiny' is kdhpc's: only the worker that holds it ends it" in str(caught.value.__cause__)
    leased.release()
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
        return status.target, status.trials.finished, status.best.value, rungs, status.foreign_trials

    assert ours() == (2, 2, 60.0, [(1, 2, 55.0)], 3)
    assert main(["status", "--study", "tiny"]) == 0
    assert "foreign  3 trials that another program made" in capsys.readouterr().out
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


def test_foreign_trials_teach_tpe_nothing(storage: Storage, storage_url: str) -> None:
    study = make(storage, target=12, sampler="tpe", pruner="none")
    finish(study, *[float(value) for value in range(40, 52)])
    space, opened = study.definition.space, load(storage_url)

    def proposed(trial_ids: set[int]) -> list[str]:
        # Each time as a process that has just begun.
        return [graph_key(OptunaView(storage, "tiny").tpe_graph(space, seed, trial_ids)) for seed in range(5)]

    own = {trial._trial_id for trial in opened.trials}
    before = proposed(own)
    first = opened.trials[0]
    for _ in range(30):
        opened.add_trial(optuna.trial.create_trial(params=first.params, distributions=first.distributions, value=99.0))
    assert proposed(own) == before
    assert proposed({trial._trial_id for trial in opened.trials}) != before, "it would have mattered"
    study.resize(13)
    finish(study, 50.0)


def test_foreign_trials_that_came_in_anyway_share_no_number_after_the_next_launch(
    storage: Storage, storage_url: str
) -> None:
    """Past the database's guard: by its administrator, say."""
    study = make(storage, target=3)
    finish(study, 50.0)
    storage.write(lambda connection: connection.execute(text("ALTER TABLE trials DISABLE TRIGGER USER")))
    load(storage_url).add_trial(a_trial(99.0))
    storage.write(lambda connection: connection.execute(text("ALTER TABLE trials ENABLE TRIGGER USER")))
    study = make(storage, target=3)
    finish(study, 60.0, 70.0)
    status = read_status(storage, "tiny")
    assert (status.target, status.trials.complete, status.best.value, status.foreign_trials) == (3, 3, 70.0, 1)
    assert sorted(trial.number for trial in optuna_trials(storage_url)) == [0, 1, 2, 3]


def test_optunas_tools_work_on_an_unfinished_study_and_on_others_beside_it(storage: Storage, storage_url: str) -> None:
    study = make(storage, target=2)
    finish(study, 50.0)
    opened = load(storage_url)
    opened.set_user_attr("note", "of a dashboard")
    assert opened.trials_dataframe()["value"].tolist() == [50.0]
    beside = optuna.create_study(study_name="beside", storage=storage_url, direction="maximize")
    beside.enqueue_trial({"x": 0.25})
    beside.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    assert beside.trials[0].params == {"x": 0.25}
    optuna.copy_study(from_study_name="tiny", from_storage=storage_url, to_storage=storage_url, to_study_name="copied")
    copied = load(storage_url, "copied")
    asked = copied.ask()
    assert asked.suggest_categorical("label_1_gate", [gate.value for gate in Gate]) in list(Gate)
    take(study).complete(60.0)
    optuna.delete_study(study_name="tiny", storage=storage_url)
    assert study_names(storage) == ()
    assert scalar(storage, "SELECT count(*) FROM kdhpc_slots") == 0
    assert len(copied.trials) == 2


def test_restored_dump_is_the_same_study_and_as_guarded(
    storage: Storage, storage_url: str, server_folder: Path, tmp_path: Path
) -> None:
    study = make(storage, target=4)
    finish(study, 50.0)
    held = take(study)
    held.report(1, 60.0)
    programs, written = installed_programs(), tmp_path / "dump"
    url = storage_url.replace("+psycopg2", "")
    subprocess.run([programs / "pg_dump", "--format=custom", f"--file={written}", url], check=True)
    drop_tables(storage_url)
    restored = subprocess.run(
        [programs / "pg_restore", "--exit-on-error", "--no-owner", f"--dbname={url}", written],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    # The schema is there already.
    assert restored.returncode == 0 or "already exists" in restored.stderr, restored.stderr
    again = SharedStudy.open(storage, "tiny")
    assert again.uid == study.uid
    with pytest.raises(IntegrityError, match="not finished"):
        load(storage_url).enqueue_trial({})
    assert held.report(2, 60.0) is False
    held.complete(60.0)
    finish(again, 70.0, 80.0)
    assert read_status(storage, "tiny").best.value == 80.0
