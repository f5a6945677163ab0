"""``kdhpc stop`` on workers of this machine."""

from tests.workspace import PATIENCE_S, until


def test_stop_ends_a_search_that_goes_on_later(workspace) -> None:
    command = ("search", "--study", "halted", "study=tiny", "training.epochs=24", "--trials", "2", "study.pruner=none")
    search = workspace.start(*command)
    (worker,) = workspace.catch("halted")
    stopping = workspace.start("stop", "--study", "halted")
    until(lambda: workspace.read("halted").draining)
    worker.let_go()
    _, err = stopping.communicate(timeout=PATIENCE_S)
    assert stopping.returncode == 0, err
    _, err = search.communicate(timeout=PATIENCE_S)
    assert search.returncode == 130, err
    status = workspace.status("halted")
    assert (status["draining"], status["workers"], status["trials"]["waiting"]) == (True, [], 2)
    assert "stopped" in workspace.run("status", "--study", "halted").stdout
    worker = workspace.run("worker", "--study", "halted")
    assert (worker.returncode, worker.stdout) == (0, "0 trials finished\n")

    assert workspace.run(*command).returncode == 0
    status = workspace.status("halted")
    assert (status["draining"], status["trials"]["complete"]) == (False, 2)


def test_stop_unknown_study_names_those_that_exist(workspace) -> None:
    done = workspace.run("stop", "--study", "nothing")
    assert done.returncode == 1
    assert "nothing" in done.stderr
