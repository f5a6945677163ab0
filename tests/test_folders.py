"""Folders that are their owner's alone, whatever the umask, the group's bit, and what others have put there before."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdhpc import folders
from kdhpc.config.compose import compose_search
from kdhpc.config.paths import StudyPaths
from kdhpc.errors import DatabaseError, StorageError
from kdhpc.files.locking import FileLock
from kdhpc.files.writing import create_alone, replacing, write_whole
from kdhpc.folders import append_to, own_folder, private_folder, refuse_planted, refuse_strangers
from kdhpc.searching.manifest import freeze_launch
from kdhpc.server.control import ServerOptions, running, start, stop
from kdhpc.server.home import checked_home
from kdhpc.study.storage import Storage
from tests.faults import FaultyDisk
from tests.server.test_ownership import fill, kill_all

STRANGER = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="other users need root")


@pytest.fixture(autouse=True)
def told_anew() -> None:
    folders._warn_about.cache_clear()


@pytest.fixture(params=[0o002, 0o000, 0o077], ids=lambda mask: f"umask {mask:03o}")
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of a project, to which its group may write, and whose group goes on to what is made in it."""
    project = tmp_path / "project"
    project.mkdir()
    if os.geteuid() == 0:
        # root's own group has nobody else.
        os.chown(project, -1, STRANGER)
    project.chmod(0o2775)
    return project


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def open_to_others(top: Path) -> list[str]:
    """What others than the owner may write to."""
    return [str(path.relative_to(top)) for path in (top, *top.rglob("*")) if path.lstat().st_mode & 0o022]


def test_private_folder_is_private_whatever_the_umask(umask: int, project: Path) -> None:
    folder = private_folder(project / "runs" / "study" / "jobs")
    assert mode(folder) == 0o700
    assert open_to_others(project / "runs") == []
    folder.chmod(0o2777)
    assert mode(private_folder(folder)) == 0o700
    readable = own_folder(project / "runs" / "study" / "config")
    readable.chmod(0o775)
    assert mode(own_folder(readable)) == 0o755


def test_launch_leaves_nothing_that_others_could_exchange(
    umask: int, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KDHPC_RUNS", str(project / "runs"))
    freeze_launch("mine", compose_search(["study=quickstart"])).write()
    assert mode(StudyPaths.of("mine").jobs) == 0o700
    assert open_to_others(project / "runs") == []
    # The project's own folder is not ours to change.
    (said,) = caplog.messages
    assert said.startswith(f"{project} can be written to by others")
    assert f"`chmod go-w {project}`, or set KDHPC_RUNS" in said


def test_server_leaves_nothing_that_others_could_exchange(
    project: Path, template: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = os.umask(0)
    folder = fill(project / "runs", template)
    folder.chmod(0o2777)
    try:
        start(folder, ServerOptions())
        assert stop(folder).dump
    finally:
        os.umask(before)
        kill_all(folder)
    # As root, PostgreSQL's account comes through, and sees no names.
    assert mode(folder) == (0o710 if os.geteuid() == 0 else 0o700)
    assert open_to_others(folder) == []
    (said,) = (said for said in caplog.messages if "can be written to by others" in said)
    assert f"`chmod go-w {folder.parent} {project}`" in said


def test_folder_that_stays_open_is_told_of_in_one_line(disk: FaultyDisk, caplog: pytest.LogCaptureFixture) -> None:
    folder = disk.path / "runs"
    folder.mkdir()
    folder.chmod(0o777)
    disk.rules("chmod * err=EACCES")
    private_folder(folder)
    (said,) = (said for said in caplog.messages if str(disk.path) in said)
    assert "is open to others (mode 777), and its file system does not change that (Permission denied)" in said
    assert "set KDHPC_RUNS to a folder on a disk where `chmod 700` works" in said


@needs_root
def test_folder_of_another_user_is_not_used(project: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(project / "runs", template)
    os.chown(folder, STRANGER, STRANGER)
    monkeypatch.setenv("KDHPC_RUNS", str(folder.parent))
    monkeypatch.delenv("KDHPC_STORAGE", raising=False)
    said = rf"{folder} belongs to user {STRANGER} and not to root \(user 0\), who runs this.*KDHPC_RUNS"
    with pytest.raises(StorageError, match=said):
        start(folder, ServerOptions())
    for refused in (lambda: running(folder), lambda: stop(folder), Storage.connect):
        with pytest.raises(DatabaseError, match=said):
            refused()
    link = project / "link"
    link.symlink_to(project)
    refuse_strangers(link)
    os.lchown(link, STRANGER, STRANGER)
    with pytest.raises(StorageError, match="belongs to user"):
        refuse_strangers(link)


@needs_root
@pytest.mark.parametrize("name", ["server.log", "endpoint.tmp", "kdhpc.tmp", "endpoint.json", "passfile", "lock"])
def test_link_that_somebody_planted_is_named_and_not_followed(project: Path, template: Path, name: str) -> None:
    folder, target = fill(project / "runs", template), project / "target"
    target.write_text("precious")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    os.lchown(folder / name, STRANGER, STRANGER)
    with pytest.raises(StorageError, match=rf"{folder / name} was put there by user {STRANGER}.*remove it"):
        start(folder, ServerOptions())
    with pytest.raises(DatabaseError, match="was put there by"):
        checked_home(folder)
    assert target.read_text() == "precious"


@pytest.mark.parametrize("name", ["server.log", "lock", "server.lock"])
def test_link_of_this_user_is_not_written_through(project: Path, template: Path, name: str) -> None:
    folder, target = fill(project / "runs", template), project / "target"
    target.write_text("precious")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    try:
        with pytest.raises(StorageError, match=rf"{folder / name} cannot be .*: it is a link"):
            start(folder, ServerOptions())
    finally:
        kill_all(folder)
    assert target.read_text() == "precious"


def test_log_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("precious")
    os.link(tmp_path / "log", tmp_path / "twice")
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("twice", "another name of a file"), ("pipe", "No such device or address|no regular file")):
        with pytest.raises(StorageError, match=said):
            append_to(tmp_path / name)
    assert (tmp_path / "log").read_text() == "precious"


def test_what_vanishes_while_it_is_looked_at_was_nobodys(tmp_path: Path) -> None:
    stop_making = threading.Event()

    def make() -> None:
        while not stop_making.is_set():
            write_whole(tmp_path / "endpoint.json", "x")

    thread = threading.Thread(target=make)
    thread.start()
    for _ in range(200):
        refuse_planted(tmp_path)
    stop_making.set()
    thread.join()


def test_temporary_names_are_new_and_follow_no_link(umask: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("kdhpc.files.writing.secrets.token_hex", lambda count: "0" * 2 * count)
    (tmp_path / f".a.{'0' * 16}.tmp").symlink_to(tmp_path / "target")
    with pytest.raises(StorageError, match="a cannot be written: File exists"):
        write_whole(tmp_path / "a", "x")
    (tmp_path / "b").symlink_to(tmp_path / "target")
    assert not create_alone(tmp_path / "b", "x")
    write_whole(tmp_path / "b", "x", mode=0o600)
    assert (mode(tmp_path / "b"), (tmp_path / "b").is_symlink()) == (0o600, False)
    with replacing(tmp_path / "c") as temporary:
        assert temporary.exists()
    assert not mode(tmp_path / "c") & 0o022
    assert not (tmp_path / "target").exists()


@needs_root
def test_lock_that_somebody_else_holds_hangs_nothing(project: Path, template: Path) -> None:
    folder = fill(project / "runs", template)
    lock = folder / "lock"
    lock.touch(mode=0o644)
    folder.chmod(0o755)
    hold = "import fcntl, time; fcntl.flock(0, fcntl.LOCK_EX); print(1, flush=True); time.sleep(300)"
    command = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", "--", sys.executable, "-c"]
    with (
        # Only for reading, as everybody could open it.
        lock.open("rb") as opened,
        subprocess.Popen([*command, hold], stdin=opened, stdout=subprocess.PIPE, cwd="/") as holder,
    ):
        try:
            if holder.stdout.readline() != b"1\n":
                pytest.skip("another user cannot start this Python")
            for refused in (lambda: start(folder, ServerOptions()), lambda: stop(folder)):
                with pytest.raises(
                    DatabaseError, match=rf"lock is held by process {holder.pid} of user {STRANGER}, .*delete"
                ):
                    refused()
            assert FileLock.take(lock, private=True) is None
            assert mode(lock) == 0o600, "nobody else can open it from now on"
        finally:
            holder.kill()
    with contextlib.closing(FileLock.take(lock, private=True)) as free:
        assert free.problem is None
