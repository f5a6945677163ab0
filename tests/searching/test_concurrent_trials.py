"""One worker, several trials at once: the same numbers, and every trial a slot of its own."""

import json
import signal

import optuna

from kdhpc import __version__
from tests.searching.test_search import finished_exactly, worker_logs


def metrics(workspace, study: str) -> dict[int, list[dict]]:
    """By trial: its epochs, without their times."""
    found = {}
    for path in (workspace.folder / "runs" / study / "trials").glob("*/metrics.jsonl"):
        reports = [json.loads(line) for line in path.read_text().splitlines()]
        found[int(path.parent.name)] = [{**report, "seconds": None} for report in reports]
    return found


def test_trials_trained_at_once_get_the_numbers_of_trials_trained_alone(workspace) -> None:
    for number in (1, 3):
        done = workspace.run(
            *("search", "--study", f"trials{number}", "study=tiny", "--workers", "1", "--trials", "5"),
            *("study.pruner=none", f"worker.concurrent_trials={number}"),
        )
        assert done.returncode == 0, done.stderr
        assert finished_exactly(workspace.status(f"trials{number}"), 5)
    alone, together = metrics(workspace, "trials1"), metrics(workspace, "trials3")
    assert sorted(alone) == list(range(5))
    assert alone == together
    logs = worker_logs(workspace, "trials3")
    assert logs.index("trial 2, slot 2") < logs.index("trial 0: complete") < logs.index("trial 3, slot 3")


def test_runner_of_a_pruned_trial_takes_the_next_slot_and_the_budget_is_met(workspace) -> None:
    done = workspace.run("search", "--study", "pruned", "study=tiny", "--workers", "2", "worker.concurrent_trials=3")
    assert done.returncode == 0, done.stderr
    status = workspace.status("pruned")
    assert finished_exactly(status, 6)
    url = workspace.run("db", "url").stdout.strip()
    trials = optuna.load_study(study_name="pruned", storage=url).trials
    assert sorted(trial.number for trial in trials) == list(range(6))
    expected = {"mode": "eager", "data": "disk", "device": "cpu", "kdhpc": __version__}
    assert all(expected.items() <= trial.user_attrs["kdhpc"]["run"].items() for trial in trials)


def test_interrupted_worker_gives_all_its_slots_back_and_they_go_on(workspace) -> None:
    command = (
        *("search", "--study", "together", "study=tiny", "--workers", "1", "--trials", "2", "study.pruner=none"),
        *("training.epochs=24", "worker.concurrent_trials=2"),
    )
    search = workspace.start(*command)
    one, other = workspace.catch("together", trials=2)
    assert one.pid == other.pid
    assert {worker.mode for worker in workspace.read("together").workers} == {"eager"}
    search.send_signal(signal.SIGINT)
    one.let_go()
    search.communicate()
    status = workspace.status("together")
    assert (status["trials"]["waiting"], status["workers"]) == (2, [])

    again = workspace.run(*command)
    assert again.returncode == 0, again.stderr
    assert finished_exactly(workspace.status("together"), 2)
    logs = worker_logs(workspace, "together")
    assert all(f"trial {number} goes on after epoch" in logs for number in (0, 1))
    assert [len(reports) for _, reports in sorted(metrics(workspace, "together").items())] == [24, 24]
