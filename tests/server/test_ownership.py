"""One owner of a data folder: containers, two machines on a shared file system, locks that fail, files left behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest

from kdhpc.errors import DatabaseError, StorageError
from kdhpc.files.locking import FileLock
from kdhpc.processes import has_ended, process_start
from kdhpc.server.address import EmbeddedAddress
from kdhpc.server.control import ServerOptions, running, start, stop
from kdhpc.server.endpoint import endpoint_path, read_endpoint, write_endpoint
from kdhpc.server.ownership import NotCertainError, TakeOver
from kdhpc.server.proof import last_server
from kdhpc.server.record import claim, lock_path, new_record, record_path, update
from tests.faults import FaultyDisk, faulty_disk
from tests.server.servers import postgres_processes, pretend_elsewhere

_ROOT = Path(__file__).parents[2]
_CONTAINER = ("unshare", "--pid", "--ipc", "--fork", "--mount-proc")
_OTHER_NODE = (
    *("unshare", "--mount", "--uts", "--pid", "--ipc", "--fork", "--mount-proc"),
    *("sh", "-c", 'hostname node2 && "$@"', "sh"),
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")


def fill(runs: Path, template: Path) -> Path:
    """A folder in which a server was started and stopped before, by no record of a start."""
    folder = runs / "db"
    shutil.copytree(template, folder)
    for record in folder.glob("owner.*"):
        record.unlink()
    return folder


@pytest.fixture
def folder(tmp_path: Path, template: Path) -> Iterator[Path]:
    """A server's folder; whatever runs in it at the end is killed."""
    folder = fill(tmp_path / "runs", template)
    yield folder
    kill_all(folder)


def kill_all(*folders: Path) -> None:
    for folder in folders:
        for pid in postgres_processes(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)


def command(folder: Path, *arguments: str, inside: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    """``kdhpc db`` in a process of its own, in a container of its own."""
    return subprocess.Popen(
        [*inside, sys.executable, "-m", "kdhpc.cli.main", "db", *arguments],
        env={**os.environ, "KDHPC_RUNS": str(folder.parent), "PYTHONPATH": str(_ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )


def db(folder: Path, *arguments: str, inside: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    process = command(folder, *arguments, inside=inside)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def query(folder: Path, statement: str) -> object:
    endpoint = read_endpoint(folder)
    assert endpoint is not None
    connection = psycopg2.connect(
        host="127.0.0.1", port=endpoint.port, user="kdhpc", dbname="kdhpc", passfile=str(folder / "passfile")
    )
    with contextlib.closing(connection), connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None


# Containers: process ids and host names that mean nothing.


@needs_root
def test_start_in_a_container_finds_the_server_outside(folder: Path) -> None:
    first = db(folder, "start")
    assert first.returncode == 0, first.stderr
    query(folder, "CREATE TABLE kept (value integer); INSERT INTO kept VALUES (41)")
    servers = postgres_processes(folder)
    assert len(servers) == 1

    inside = db(folder, "start", inside=_CONTAINER)
    assert (inside.returncode, "was running already" in inside.stderr) == (0, True), inside.stderr
    stopped = db(folder, "stop", inside=_CONTAINER)
    assert stopped.returncode == 1
    assert "it runs where it cannot be ended from here" in stopped.stderr
    # Now in a network of its own, from where the server cannot be reached.
    for refused in (("start", "--take-over"), ("stop",)):
        inside = db(folder, *refused, inside=(*_CONTAINER, "--net"))
        assert inside.returncode == 1, inside.stderr
        assert "Stop it where it was started (`kdhpc db stop`)" in inside.stderr
        assert "Traceback" not in inside.stderr

    assert postgres_processes(folder) == servers
    assert query(folder, "SELECT value FROM kept") == 41
    assert stop(folder).was_running


@needs_root
@pytest.mark.parametrize("container", [_CONTAINER, ("unshare", "--pid", "--ipc", "--fork")], ids=["proc", "no proc"])
def test_commands_in_one_container_work_on_its_own_server(folder: Path, container: tuple[str, ...]) -> None:
    """Also where it sees the processes outside in its ``/proc``."""
    script = 'for command in start start stop start; do "$@" $command || exit; done; kill -9 -1; "$@" start; "$@" stop'
    done = db(folder, inside=(*container, "sh", "-c", script, "sh"))
    said = [line for line in done.stderr.splitlines() if line.startswith("PostgreSQL")]
    assert done.returncode == 0, done.stderr
    words = ("started", "running already", "stopped", "started", "started", "stopped")
    assert all(word in line for word, line in zip(words, said, strict=True)), said
    assert "no dump" not in done.stderr


@needs_root
def test_server_of_a_container_that_ended_is_started_again_outside(folder: Path) -> None:
    """The container's first process ends, and all in it are killed; its process ids mean nothing outside."""
    done = db(folder, "start", inside=_CONTAINER)
    assert done.returncode == 0, done.stderr
    assert last_server(folder).state == "running"
    assert not start(folder, ServerOptions()).already
    assert len(postgres_processes(folder)) == 1
    assert stop(folder).was_running


# Two machines on one folder.


@contextlib.contextmanager
def two_nodes(faultfs: Path, top: Path, template: Path, *, locks: str = "", options: str = "") -> Iterator[list[Path]]:
    """The server's folder as two machines see it."""
    backing = top / "backing"
    fill(backing / "runs", template)
    with (
        faulty_disk(faultfs, top / "a", backing=backing, locks=locks, options=options) as first,
        faulty_disk(faultfs, top / "b", backing=backing, locks=locks, options=options) as second,
    ):
        folders = [disk.path / "runs" / "db" for disk in (first, second)]
        try:
            yield folders
        finally:
            kill_all(*folders)


def test_two_nodes_whose_locks_do_not_meet_start_one_server(faultfs: Path, tmp_path: Path, template: Path) -> None:
    with two_nodes(faultfs, tmp_path, template, locks="local") as nodes:
        assert db(nodes[0], "start", "--listen", "all").returncode == 0
        assert db(nodes[0], "stop").returncode == 0
        both = [
            command(node, "start", "--listen", "all", inside=inside)
            for node, inside in zip(nodes, ((), (*_OTHER_NODE, "sh", "-c", '"$@"; sleep 5', "sh")), strict=True)
        ]
        outcomes = [process.communicate(timeout=240)[1] for process in both]
        servers = [postgres_processes(node) for node in nodes]
        # The server of a container ends with it.
        assert len(servers[0] | servers[1]) <= 1
        assert sum(" started" in outcome for outcome in outcomes) == 1, outcomes
        assert "PANIC" not in (nodes[0] / "server.log").read_text()


def test_node_that_looked_before_starts_no_second_server(faultfs: Path, tmp_path: Path, template: Path) -> None:
    """It remembers for half a minute that there is no endpoint and no lock file of PostgreSQL's."""
    with two_nodes(faultfs, tmp_path, template, options="negative_timeout=30") as nodes:
        (tmp_path / "backing" / "runs" / "db" / "endpoint.json").unlink()
        assert running(nodes[1]) is None
        assert not any((nodes[1] / name).exists() for name in ("endpoint.json", "server.pid", "data/postmaster.pid"))
        first = start(nodes[0], ServerOptions())
        assert not (nodes[1] / "endpoint.json").exists()
        assert EmbeddedAddress(nodes[1])().port == first.endpoint.port
        second = db(nodes[1], "start", inside=_OTHER_NODE)
        assert "was running already" in second.stderr, second.stderr
        assert read_endpoint(nodes[1]) == first.endpoint
        assert postgres_processes(nodes[1]) == set()
        assert len(postgres_processes(nodes[0])) == 1
        assert stop(nodes[0]).was_running


def test_node_that_cannot_see_the_record_yet_waits_for_it(faultfs: Path, tmp_path: Path, template: Path) -> None:
    with two_nodes(faultfs, tmp_path, template, locks="local", options="negative_timeout=4") as nodes:
        assert not (nodes[1] / "owner.1.json").exists()
        first = start(nodes[0], ServerOptions())
        assert last_server(nodes[1]).state == "unreadable"
        second = start(nodes[1], ServerOptions())
        assert (second.already, second.endpoint) == (True, first.endpoint)
        assert stop(nodes[0]).was_running


def test_claim_of_a_number_that_is_long_past_is_lost(folder: Path) -> None:
    """A machine that saw the folder half a minute ago claims what it takes for the next number."""
    lock_path(folder).touch()
    records = [new_record(folder, number, host="here", job=None, lock=None) for number in range(1, 14)]
    assert all(claim(folder, record) for record in records)
    assert not record_path(folder, 1).exists()
    assert not claim(folder, records[0])
    assert not record_path(folder, 1).exists()
    assert not claim(folder, records[12])
    assert last_server(folder) == records[12]


# Locks.


@pytest.mark.parametrize("error", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
@needs_root
def test_server_where_there_are_no_locks(disk: FaultyDisk, template: Path, error: str) -> None:
    folder = fill(disk.path / "runs", template)
    disk.rules(f"flock * err={error}")
    try:
        first = db(folder, "start")
        assert first.returncode == 0, first.stderr
        assert first.stderr.count("has no locks (") == 1
        (server,) = postgres_processes(folder)
        if error == "ENOLCK":
            refused = db(folder, "start", inside=(*_CONTAINER, "--net"))
            assert refused.returncode == 1
            assert "in another container of this machine, and not stopped" in refused.stderr
            assert "there were no locks that would tell" in refused.stderr
            assert postgres_processes(folder) == {server}
        os.kill(server, signal.SIGKILL)
        again = start(folder, ServerOptions())
        assert not again.already
        assert len(postgres_processes(folder)) == 1
        assert stop(folder).was_running
    finally:
        kill_all(folder)


def test_server_holds_the_lock_as_long_as_it_lives(folder: Path) -> None:
    start(folder, ServerOptions())
    assert FileLock.take(lock_path(folder)) is None
    stop(folder)
    with FileLock.take(lock_path(folder)) as lock:
        assert lock.problem is None


def test_start_beside_what_is_left_of_a_server_is_refused(folder: Path) -> None:
    with FileLock.take(lock_path(folder)):
        with pytest.raises(NotCertainError, match=r"or what is left of it, still works in .*server\.lock"):
            start(folder, ServerOptions(), timeout_s=1.0)
        with pytest.raises(NotCertainError, match="not stopped"):
            stop(folder)
    assert postgres_processes(folder) == set()


# What was left behind.


def test_server_that_was_killed_starts_again(folder: Path) -> None:
    for _ in range(2):
        endpoint = start(folder, ServerOptions()).endpoint
        os.kill(endpoint.pid, signal.SIGKILL)
    again = start(folder, ServerOptions())
    assert (again.already, again.endpoint.port) == (False, endpoint.port)
    record = last_server(folder)
    os.kill(record.pid, signal.SIGKILL)
    while not has_ended(record.pid, record.space, record.process_start):
        time.sleep(0.01)
    assert not stop(folder).was_running
    assert last_server(folder).state == "stopped"
    assert not start(folder, ServerOptions()).already


def test_server_of_a_boot_before_starts_again_from_a_disk_of_this_machine_alone(folder: Path) -> None:
    start(folder, ServerOptions())
    record = last_server(folder)
    os.kill(record.pid, signal.SIGKILL)
    before = replace(record, space="boot-before pid:[1]")
    update(folder, replace(before, folder=replace(before.folder, file_system="nfs4")))
    with pytest.raises(NotCertainError, match="on another machine, as seen from here"):
        start(folder, ServerOptions())
    update(folder, before)
    assert not start(folder, ServerOptions()).already


def test_start_that_was_killed_after_its_claim_is_passed_over(folder: Path) -> None:
    lock_path(folder).touch()
    process = subprocess.Popen(["sleep", "100"])
    with FileLock.take(lock_path(folder)) as lock:
        record = new_record(folder, 1, host="127.0.0.1", job=None, lock=lock)
        assert claim(folder, replace(record, pid=process.pid, process_start=process_start(process.pid)))
    with pytest.raises(NotCertainError, match="another start of PostgreSQL"):
        start(folder, ServerOptions(), timeout_s=0.5)
    process.kill()
    process.wait()
    assert not start(folder, ServerOptions()).already


def test_start_that_is_killed_before_its_server_begins_leaves_none(folder: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from kdhpc.server import ownership as server_claim
from kdhpc.server.control import ServerOptions, start
begin = server_claim.FolderClaim.begin
def begin_and_die(claim, pid, port):
    begin(claim, pid, port)
    print(pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
server_claim.FolderClaim.begin = begin_and_die
start(Path(sys.argv[1]), ServerOptions())
"""
    log = (folder / "server.log").read_text()
    done = subprocess.run(
        [sys.executable, "-c", script, folder], capture_output=True, text=True, check=False, cwd=_ROOT, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert last_server(folder).pid == int(done.stdout)
    assert ((folder / "server.log").read_text(), postgres_processes(folder)) == (log, set())
    assert not start(folder, ServerOptions()).already


@pytest.mark.parametrize("content", ["", '{"format": "kdhpc-server-owner", "ver', "\0" * 100])
def test_record_that_was_cut_short_proves_nothing(folder: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record_path(folder, 7).write_text(content)
    with monkeypatch.context() as shared:
        shared.setattr("kdhpc.server.proof.file_system", lambda path: "nfs4")
        with pytest.raises(NotCertainError, match=r"owner\.7\.json cannot be read .*--take-over"):
            start(folder, ServerOptions(), timeout_s=0.5)
    # On a disk of this machine alone, whoever was writing it would hold the lock.
    assert not start(folder, ServerOptions()).already
    assert last_server(folder).number == 8


@pytest.mark.parametrize("pid", [1, 2**22 - 1], ids=["of a process", "of no process"])
def test_lock_file_of_postgresql_that_nothing_explains_is_a_reason_to_refuse(folder: Path, pid: int) -> None:
    pid_file = folder / "data" / "postmaster.pid"
    written = f"{pid}\n{folder / 'data'}\n1700000000\n9\n\n*\n  1 2\n"
    pid_file.write_text(written)
    for refused in (start, lambda folder, _: stop(folder)):
        with pytest.raises(NotCertainError, match=r"postmaster\.pid says that PostgreSQL runs .*--take-over"):
            refused(folder, ServerOptions())
        assert pid_file.read_text() == written
    assert not start(folder, ServerOptions(), take_over=TakeOver()).already


def test_server_without_its_record_is_found_again(folder: Path) -> None:
    """Its record and its endpoint were deleted; and so it is where an older kdhpc started it, which wrote none."""
    endpoint = start(folder, ServerOptions()).endpoint
    for number in (1, 2):
        record_path(folder, number).unlink(missing_ok=True)
    endpoint_path(folder).unlink()
    found = start(folder, ServerOptions())
    assert (found.already, found.endpoint.pid, found.endpoint.port) == (True, endpoint.pid, endpoint.port)
    assert running(folder) == found.endpoint == read_endpoint(folder)
    record_path(folder, 1).unlink()
    assert stop(folder).was_running
    assert postgres_processes(folder) == set()


def test_endpoint_of_an_older_kdhpc_that_does_not_answer_is_refused(folder: Path) -> None:
    endpoint = read_endpoint(folder)
    assert endpoint is not None
    write_endpoint(folder, replace(endpoint, pid=4711, node="node17", port=9, token=""))
    with pytest.raises(NotCertainError, match=r"older kdhpc \(process 4711 on node17.*--take-over"):
        start(folder, ServerOptions())
    assert not start(folder, ServerOptions(), take_over=TakeOver()).already


# Copies.


def test_copy_of_a_folder_does_not_take_the_original_for_its_own(folder: Path, tmp_path: Path) -> None:
    original = start(folder, ServerOptions()).endpoint
    copy = tmp_path / "copy" / "db"
    shutil.copytree(folder, copy)
    assert running(copy) is None
    with pytest.raises(DatabaseError, match=f"is a copy of {folder}"):
        EmbeddedAddress(copy)()
    assert EmbeddedAddress(folder)().port == original.port
    for refused in (start, lambda folder, _: stop(folder)):
        with pytest.raises(NotCertainError, match=f"is a copy of {folder}, made while its server ran"):
            refused(copy, ServerOptions())
    assert running(folder) == original
    stop(folder)
    with pytest.raises(NotCertainError, match=f"is a copy of {folder}"):
        start(copy, ServerOptions())

    shutil.rmtree(copy)
    shutil.copytree(folder, copy)
    start(folder, ServerOptions())
    try:
        assert not start(copy, ServerOptions()).already, "a copy of what was stopped is a folder like any other"
        assert stop(copy).was_running
    finally:
        kill_all(copy)
    assert running(folder)


def test_folder_that_was_moved_keeps_its_server(folder: Path, tmp_path: Path) -> None:
    endpoint = start(folder, ServerOptions()).endpoint
    moved = tmp_path / "moved"
    folder.rename(moved)
    found = start(moved, ServerOptions())
    assert (found.already, found.endpoint.pid) == (True, endpoint.pid)
    assert stop(moved).was_running
    assert postgres_processes(moved) == set()


def test_folder_whose_inode_numbers_change_keeps_its_server(disk: FaultyDisk, template: Path) -> None:
    folder = fill(disk.path / "runs", template)
    disk.rules("getattr server.lock newino=1")
    try:
        start(folder, ServerOptions())
        assert start(folder, ServerOptions()).already
        assert running(folder)
        (server,) = postgres_processes(folder)
        os.kill(server, signal.SIGKILL)
        assert not start(folder, ServerOptions()).already
        assert stop(folder).was_running
    finally:
        kill_all(folder)


# Disks that refuse.


@pytest.mark.parametrize("name", ["endpoint", "owner"])
def test_start_on_a_full_disk_names_the_file_and_leaves_nothing(disk: FaultyDisk, template: Path, name: str) -> None:
    folder = fill(disk.path / "runs", template)
    disk.rules(f"flush {name} late=EDQUOT")
    try:
        with pytest.raises(StorageError, match=rf"{name}.*\.json cannot be written: Disk quota exceeded"):
            start(folder, ServerOptions())
        assert postgres_processes(folder) == set()
        disk.rules()
        assert not start(folder, ServerOptions()).already
        stop(folder)
    finally:
        kill_all(folder)


def test_start_whose_record_is_refused_later_begins_no_server(disk: FaultyDisk, template: Path) -> None:
    """The claim can be written, and which process is the server cannot."""
    folder = fill(disk.path / "runs", template)
    log = folder / "server.log"
    before = log.read_text()
    disk.rules("flush .owner late=EDQUOT")
    try:
        with pytest.raises(StorageError, match=r"owner\.1\.json cannot be written: Disk quota exceeded"):
            start(folder, ServerOptions())
        assert (postgres_processes(folder), log.read_text()) == (set(), before)
        disk.rules()
        assert not start(folder, ServerOptions()).already
        stop(folder)
    finally:
        kill_all(folder)


def test_folder_that_cannot_be_written_to_is_named(disk: FaultyDisk, template: Path) -> None:
    folder = fill(disk.path / "runs", template)
    disk.rules("create,openw,mkdir * err=EROFS")
    with pytest.raises(StorageError, match=r"lock cannot be opened: Read-only file system"):
        start(folder, ServerOptions())
    assert running(folder) is None


# Other machines.


def test_take_over_of_one_server_passes_over_no_later_one(folder: Path) -> None:
    start(folder, ServerOptions())
    stop(folder)
    gone = pretend_elsewhere(folder)
    later = replace(gone, number=gone.number + 1, token="later")
    assert claim(folder, later)
    with pytest.raises(NotCertainError):
        start(folder, ServerOptions(), take_over=TakeOver(token=gone.token))
    assert not start(folder, ServerOptions(), take_over=TakeOver(token="later")).already


def test_server_taken_over_beside_a_lock_that_its_dead_machine_keeps(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(folder, ServerOptions())
    stop(folder)
    pretend_elsewhere(folder)
    monkeypatch.setattr("kdhpc.server.proof.file_system", lambda path: "nfs4")
    monkeypatch.setattr("kdhpc.server.control._LAST_ONES_S", 0.2)
    with FileLock.take(lock_path(folder)):
        with pytest.raises(NotCertainError, match="--take-over"):
            start(folder, ServerOptions(), timeout_s=0.5)
        taken = start(folder, ServerOptions(), take_over=TakeOver()).endpoint
        os.kill(taken.pid, signal.SIGKILL)
        assert not start(folder, ServerOptions()).already
        assert stop(folder).was_running


def test_take_over_of_a_server_that_answers_changes_nothing(folder: Path) -> None:
    endpoint = start(folder, ServerOptions()).endpoint
    again = start(folder, ServerOptions(), take_over=TakeOver())
    assert (again.already, again.endpoint) == (True, endpoint)


def test_take_over_of_a_server_that_hangs_here_is_refused(folder: Path) -> None:
    endpoint = start(folder, ServerOptions()).endpoint
    os.kill(endpoint.pid, signal.SIGSTOP)
    try:
        with pytest.raises(DatabaseError, match="runs on this machine and does not answer"):
            start(folder, ServerOptions(), take_over=TakeOver(), timeout_s=1.0)
    finally:
        os.kill(endpoint.pid, signal.SIGCONT)
    assert start(folder, ServerOptions()).already
