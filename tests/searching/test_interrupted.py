"""A search that is told to stop, or loses its terminal, its reader or its database: no worker is left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import FaultyDisk, faulty_disk
from tests.searching.test_search import finished_exactly, worker_logs
from tests.slurm.faults import is_pending
from tests.workspace import PATIENCE_S, Caught, Workspace, make_workspace, until

LONG = ("training.epochs=12", "--trials", "2", "study.pruner=none", "cluster.workers=1", "device.threads=1")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace with a database of its own, to be broken."""
    workspace = make_workspace(tmp_path)
    started = workspace.run("db", "start")
    assert started.returncode == 0, started.stderr
    yield workspace
    workspace.close()


def begin(workspace: Workspace, study: str) -> "tuple[subprocess.Popen[str], Caught]":
    """A search with one worker, caught in mid-trial; it hears of a closed terminal even where the tests do not."""
    ours = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    search = workspace.start("search", "--study", study, "study=tiny", *LONG)
    signal.signal(signal.SIGHUP, ours)
    (worker,) = workspace.catch(study)
    return search, worker


def is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def server_processes(workspace: Workspace) -> list[int]:
    """The postmaster and its children."""
    pid = int((workspace.runs / "db" / "data" / "postmaster.pid").read_text().split()[0])
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def signal_all(pids: list[int], how: signal.Signals) -> None:
    """Signal the processes of a server, of which those that serve a connection come and go."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)


def goes_on(workspace: Workspace, study: str) -> None:
    """The same command ends the study as if nothing had been."""
    again = workspace.run("search", "--study", study, "study=tiny", *LONG)
    assert again.returncode == 0, again.stderr
    assert finished_exactly(workspace.status(study), 2)
    assert "goes on after epoch" in worker_logs(workspace, study)


def test_search_whose_terminal_is_closed_stops_in_order(workspace) -> None:
    search, worker = begin(workspace, "hung-up")
    os.killpg(search.pid, signal.SIGHUP)  # The kernel sends it to all of a terminal's processes.
    until(lambda: is_pending(worker.pid, signal.SIGTERM))
    worker.let_go()
    search.communicate(timeout=PATIENCE_S)
    assert search.returncode == 130
    assert not is_alive(worker.pid)
    status = workspace.status("hung-up")
    assert (status["workers"], status["trials"]["waiting"]) == ([], 2)
    assert "is checkpointed" in worker_logs(workspace, "hung-up")
    goes_on(workspace, "hung-up")


def test_search_under_nohup_outlives_its_terminal(workspace) -> None:
    search = subprocess.Popen(
        ["nohup", sys.executable, "-m", "kdhpc.cli.main", "search", "--study", "nohup", "study=tiny", *LONG],
        cwd=workspace.folder,
        env=workspace.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        (worker,) = workspace.catch("nohup")
        os.killpg(search.pid, signal.SIGHUP)
        worker.let_go()
        _, err = search.communicate(timeout=PATIENCE_S)
    finally:
        search.kill()
    assert search.returncode == 0, err
    assert finished_exactly(workspace.status("nohup"), 2)


def test_search_whose_output_nobody_reads_leaves_no_worker(workspace) -> None:
    search, worker = begin(workspace, "unread")
    assert search.stderr is not None
    assert search.stdout is not None
    search.stderr.close()
    search.stdout.close()
    worker.let_go()
    # The next line that it writes, at the latest when a trial ends.
    assert search.wait(timeout=PATIENCE_S) == 141
    until(lambda: not is_alive(worker.pid))
    assert workspace.read("unread").trials.running == 0
    again = workspace.run("search", "--study", "unread", "study=tiny", *LONG)
    assert again.returncode == 0, again.stderr
    assert finished_exactly(workspace.status("unread"), 2)


def test_search_that_loses_its_database_starts_it_again(own: Workspace) -> None:
    search, worker = begin(own, "lost")
    before = server_processes(own)
    os.kill(before[0], signal.SIGKILL)
    worker.let_go()
    _, err = search.communicate(timeout=PATIENCE_S)
    assert search.returncode == 0, err
    assert finished_exactly(own.status("lost"), 2)
    assert server_processes(own)[0] != before[0]
    assert all(crash["attempts"] <= 1 for crash in own.status("lost")["crashes"])


def test_search_whose_database_was_stopped_says_so_and_one_ctrl_c_ends_it(own: Workspace) -> None:
    search, worker = begin(own, "off")
    assert own.run("db", "stop").returncode == 0
    worker.let_go()
    assert search.stderr is not None
    assert any("the database was stopped: `kdhpc db start` starts it; waiting for it" in line for line in search.stderr)
    search.send_signal(signal.SIGINT)
    _, err = search.communicate(timeout=PATIENCE_S)
    assert search.returncode == 130
    assert "goes on" in err
    assert not is_alive(worker.pid)
    assert own.run("db", "start").returncode == 0
    goes_on(own, "off")


def test_second_ctrl_c_ends_a_search_whose_database_hangs(own: Workspace) -> None:
    search, worker = begin(own, "stuck")
    stuck = server_processes(own)
    try:
        signal_all(stuck, signal.SIGSTOP)
        search.send_signal(signal.SIGINT)
        time.sleep(1)  # Two at once would be one.
        search.send_signal(signal.SIGINT)
        search.wait(timeout=60)
        assert search.returncode == 130
        until(lambda: not is_alive(worker.pid))
    finally:
        signal_all(stuck, signal.SIGCONT)
    goes_on(own, "stuck")


FULL = ("openw,write,create,fallocate,truncate,mkdir,rename,unlink db/data err=ENOSPC",)


@pytest.fixture
def on_faulty_disk(faultfs: Path, tmp_path: Path) -> Iterator[tuple[Workspace, FaultyDisk]]:
    """A workspace whose database lies on a file system that can be full."""
    with faulty_disk(faultfs, tmp_path / "faulty") as disk:
        workspace = make_workspace(tmp_path / "workspace")
        workspace.runs = disk.path / "runs"
        workspace.environment["KDHPC_RUNS"] = str(workspace.runs)
        yield workspace, disk
        disk.rules()
        workspace.close()


def test_search_starts_a_database_again_that_a_full_disk_has_ended(on_faulty_disk) -> None:
    workspace, disk = on_faulty_disk
    search, worker = begin(workspace, "full")  # Which starts the server.
    postmaster = server_processes(workspace)[0]
    disk.rules(*FULL)
    worker.let_go()
    until(lambda: not is_alive(postmaster))
    disk.rules()
    _, err = search.communicate(timeout=PATIENCE_S)
    assert search.returncode == 0, err
    status = workspace.status("full")
    assert finished_exactly(status, 2)
    assert status["crashes"] == []


def test_search_whose_database_cannot_be_started_again_stops_at_a_signal(on_faulty_disk) -> None:
    workspace, disk = on_faulty_disk
    search, worker = begin(workspace, "stays-full")
    postmaster = server_processes(workspace)[0]
    disk.rules(*FULL)
    worker.let_go()
    until(lambda: not is_alive(postmaster))
    assert search.stderr is not None
    assert any("trying again" in line for line in search.stderr)
    search.send_signal(signal.SIGTERM)
    search.communicate(timeout=PATIENCE_S)
    assert search.returncode == 130
    assert not is_alive(worker.pid)
    disk.rules()
    goes_on(workspace, "stays-full")
