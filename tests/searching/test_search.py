"""Whole searches as users run them: real processes, a real PostgreSQL, real signals."""

import csv
import json
import os
import shlex
import signal
from pathlib import Path

import optuna
import pytest

from kdhpc.graph.serial import read_graph
from tests.workspace import PATIENCE_S


def finished_exactly(status: dict, target: int) -> bool:
    trials = status["trials"]
    left = trials["running"] + trials["waiting"] + trials["failed"]
    return status["target"] == target and trials["complete"] + trials["pruned"] == target and left == 0


def worker_logs(workspace, study: str) -> str:
    return "".join(path.read_text() for path in (workspace.runs / study / "jobs").glob("*/*_log.out"))


def test_search_meets_its_budget_and_exports_what_it_found(workspace) -> None:
    done = workspace.run("search", "--study", "tiny", "--workers", "2")
    assert done.returncode == 0, done.stderr
    status = workspace.status("tiny")
    assert finished_exactly(status, 6)
    assert {
        "study",
        "target",
        "trials",
        "best",
        "rungs",
        "workers",
        "trials_per_hour",
        "seconds_to_go",
    } <= status.keys()
    assert [rung["epoch"] for rung in status["rungs"]] == [1, 2, 4]
    assert status["rungs"][0]["reached"] == 6
    assert status["best"]["value"] > 60

    exported = workspace.run("export-best", "--study", "tiny", "--top", "2")
    assert exported.returncode == 0, exported.stderr
    paths = [Path(line) for line in exported.stdout.splitlines()]
    assert [path.suffix for path in paths] == [*([".json", ".svg", ".png"] * 3), ".csv"]
    assert read_graph(paths[0]).num_nodes == 2
    assert [paths[0].stem, paths[3].stem] == ["tiny-best", f"tiny-trial{status['best']['number']}"]
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(paths[-1].read_text().splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert float(rows[0]["value"]) == status["best"]["value"]

    url = workspace.run("db", "url").stdout.strip()
    study = optuna.load_study(study_name="tiny", storage=url)
    assert study.best_trial.number == status["best"]["number"]
    assert sorted(trial.number for trial in study.trials) == list(range(6))
    assert all(len(trial.params) == 6 for trial in study.trials)

    again = workspace.run("search", "--study", "tiny", "--trials", "8")
    assert again.returncode == 0, again.stderr
    assert finished_exactly(workspace.status("tiny"), 8)


def test_search_everything_killed_then_run_again_resumes_the_same_trial(workspace) -> None:
    command = ("search", "--study", "killed", "study=tiny", "training.epochs=24", "--trials", "2", "study.pruner=none")
    search = workspace.start(*command)
    (worker,) = workspace.catch("killed")
    os.kill(search.pid, signal.SIGKILL)
    os.kill(worker.pid, signal.SIGKILL)
    search.communicate()

    again = workspace.run(*command)
    assert again.returncode == 0, again.stderr
    assert finished_exactly(workspace.status("killed"), 2)
    url = workspace.run("db", "url").stdout.strip()
    trials = optuna.load_study(study_name="killed", storage=url).trials
    assert sorted(trial.number for trial in trials) == [0, 1]
    assert f"trial {worker.trial} goes on after epoch" in worker_logs(workspace, "killed")


def test_search_interrupted_goes_on_even_where_a_checkpoint_is_damaged(workspace) -> None:
    command = ("search", "--study", "stopped", "study=tiny", "training.epochs=24", "--trials", "2", "study.pruner=none")
    search = workspace.start(*command)
    (worker,) = workspace.catch("stopped")
    search.send_signal(signal.SIGINT)
    worker.let_go()
    _, err = search.communicate(timeout=PATIENCE_S)
    assert search.returncode == 130
    assert f"`{shlex.join(('kdhpc', *command))}` goes on" in err
    status = workspace.status("stopped")
    assert (status["workers"], status["trials"]["running"], status["trials"]["waiting"]) == ([], 0, 2)
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)

    trials = workspace.folder / "runs" / "stopped" / "trials"
    (trials / str(worker.trial) / "checkpoint.pt").write_bytes(b"half a check")
    assert workspace.run(*command).returncode == 0
    assert finished_exactly(workspace.status("stopped"), 2)
    assert "starts from its beginning: checkpoint" in worker_logs(workspace, "stopped")
    metrics = [json.loads(line) for line in (trials / "0" / "metrics.jsonl").read_text().splitlines()]
    assert [report["epoch"] for report in metrics] == list(range(1, 25))
    assert not list(trials.glob("*/checkpoint.pt"))


def test_search_worker_killed_is_replaced_while_it_runs(workspace) -> None:
    search = workspace.start(
        "search", "--study", "replaced", "study=tiny", "training.epochs=24", "--trials", "1", "study.pruner=none"
    )
    (worker,) = workspace.catch("replaced")
    os.kill(worker.pid, signal.SIGKILL)
    _, err = search.communicate(timeout=PATIENCE_S)
    assert search.returncode == 0, err
    assert finished_exactly(workspace.status("replaced"), 1)


@pytest.mark.parametrize(
    ("override", "said"),
    [("study.seed=9", "seed"), ("training.batch_size=8", "batch_size"), ("dataset.split_seed=4", "split_seed")],
)
def test_search_reopened_with_something_else_names_the_field(workspace, override: str, said: str) -> None:
    assert workspace.run("search", "--study", "tiny", "study.trials=8").returncode == 0
    done = workspace.run("search", "--study", "tiny", override)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.strip().count("\n") == 0


def test_search_data_not_prepared_says_how(workspace) -> None:
    done = workspace.run("search", "--study", "nodata", "study=tiny", "dataset.name=nothing")
    assert done.returncode == 1
    assert "kdhpc data prepare" in done.stderr


def test_worker_joins_an_existing_study(workspace) -> None:
    assert workspace.run("search", "--study", "joined", "study=tiny", "--trials", "1").returncode == 0
    done = workspace.run("worker", "--study", "joined", "device.threads=1")
    assert (done.returncode, done.stdout) == (0, "0 trials finished\n")
    wrong = workspace.run("worker", "--study", "joined", "training.epochs=9")
    assert wrong.returncode == 1
    assert "training.epochs" in wrong.stderr
