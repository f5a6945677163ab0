"""``kdhpc stop`` on workers of this machine, and where their database or their jobs end, too."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from kdhpc.cli.main import main
from kdhpc.config.paths import StudyPaths
from kdhpc.searching.manifest import Manifest
from kdhpc.server.control import ServerOptions, start, stop
from kdhpc.server.endpoint import read_endpoint
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from kdhpc.study.study_rows import set_draining
from tests.study.made import make, take
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


def draining(storage: Storage, monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """Let something happen as soon as a study is draining."""

    def drain(study: SharedStudy) -> None:
        storage.write(lambda connection: set_draining(connection, study._study_id, True))
        then()

    monkeypatch.setattr(SharedStudy, "drain", drain)


def test_stop_is_done_when_the_launching_job_has_shut_the_database_down(
    storage: Storage, server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(make(storage))
    draining(storage, monkeypatch, lambda: stop(server_folder))
    try:
        assert main(["stop", "--study", "tiny"]) == 0
    finally:
        start(server_folder, ServerOptions())


def test_stop_of_a_database_that_is_lost_is_an_error(
    storage: Storage, server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(make(storage))
    endpoint = read_endpoint(server_folder)
    assert endpoint is not None
    assert endpoint.pid is not None
    pid = endpoint.pid
    draining(storage, monkeypatch, lambda: os.kill(pid, signal.SIGKILL))
    try:
        assert main(["stop", "--study", "tiny"]) == 1
    finally:
        start(server_folder, ServerOptions())


def test_stop_cancels_what_waits_and_waits_for_what_runs(storage: Storage, fake_slurm, capsys) -> None:
    make(storage)
    Manifest(study="tiny", launch="one", host="here", user="me", command=(), kdhpc="0", job="6", arrays=("7",)).write()
    fake_slurm.answer("scancel", "exit 0")
    fake_slurm.answer(
        "squeue",
        "case $N in 1) echo '7_2|7|PENDING|1:00|n|None|x';; 2|3) echo '7_0|7|RUNNING|1:00|n|None|x';; esac\n"
        "echo '7_1|7|COMPLETING|1:00|n|None|x'; echo '8_0|8|RUNNING|1:00|n|None|/of/another.sh'",
    )
    assert main(["stop", "--study", "tiny"]) == 0
    assert fake_slurm.calls("scancel") == ["--quiet 7_2"]
    assert capsys.readouterr().err.splitlines() == [
        "kdhpc: cancelled, they had not started: 7_2",
        "kdhpc: waiting for jobs to end: 7_0",
    ]
    StudyPaths.of("tiny").launch("one").unlink()
