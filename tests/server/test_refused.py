"""Starts that the system refuses: the true reason is told, in one line, with what to do."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdhpc.errors import DatabaseError, StorageError
from kdhpc.server.control import ServerOptions, start, stop
from kdhpc.server.log import log_path, reason_in
from tests.server.servers import postgres_processes
from tests.server.test_ownership import fill, kill_all

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk, and other users, need root")

_ROOT = Path(__file__).parents[2]
_USER = 5  # games: it has a name.


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of that size."""
    top = tmp_path / "disk"
    top.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", top], check=True)
    yield top
    kill_all(top / "runs" / "db")
    subprocess.run(["umount", "--lazy", top], check=True)


def fill_up(top: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        (top / "other").write_bytes(bytes(110_000_000))


def read_only(top: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", top], check=True)


def use_all_names(top: Path) -> None:
    with contextlib.suppress(OSError):
        for number in range(10_000):
            (top / str(number)).touch()


@pytest.mark.parametrize(
    ("disk", "prepare", "said"),
    [
        ("size=100m", read_only, r"/db/lock cannot be opened: Read-only file system"),
        ("size=100m", fill_up, r"/db/owner\.1\.json cannot be written: No space left on device"),
        (
            "size=100m,nr_inodes=1600",
            use_all_names,
            r"/db/owner\.1\.json cannot be written: .* \(no inode is left for another file: `df -i`\)",
        ),
    ],
    indirect=["disk"],
)
def test_start_on_a_disk_that_takes_nothing_says_why(disk: Path, template: Path, prepare, said: str) -> None:
    folder = fill(disk / "runs", template)
    prepare(disk)
    with pytest.raises(StorageError, match=said):
        start(folder, ServerOptions())


@pytest.mark.parametrize("disk", ["size=30m", "size=100m,nr_inodes=300"], indirect=True)
def test_new_database_on_a_disk_that_is_too_small_tells_postgresqls_reason(disk: Path) -> None:
    folder = disk / "runs" / "db"
    with pytest.raises(DatabaseError, match=r"did not start: FATAL: could not .*No space left on device \(make room"):
        start(folder, ServerOptions())
    assert "No space left on device" in log_path(folder).read_text()
    assert postgres_processes(folder) == set()


_START = """
import resource, sys
from pathlib import Path
from kdhpc.errors import KdhpcError
from kdhpc.server.control import ServerOptions, start
resource.setrlimit(resource.RLIMIT_NPROC, (int(sys.argv[2]),) * 2)
try:
    start(Path(sys.argv[1]), ServerOptions(), timeout_s=5.0)
except KdhpcError as exc:
    print(exc)
"""


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (1, "pg_config cannot be started"),
        (2, "Cannot fork"),
        (7, "did not start: .*could not fork"),
        (8, "(in time: |could not fork)"),
    ],
)
def test_start_where_no_more_processes_may_be_made_says_so(template: Path, limit: int, said: str) -> None:
    top = Path("/var/tmp") / f"kdhpc-test-{os.getpid()}"
    folder = fill(top, template)
    try:
        for path in (top, *top.rglob("*")):
            os.chown(path, _USER, _USER, follow_symlinks=False)
        as_user = ("setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--")
        done = subprocess.run(
            [*as_user, sys.executable, "-c", _START, folder, str(limit)],
            env={**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        if "Permission denied" in done.stderr:
            pytest.skip("another user cannot start this Python")
        assert (done.returncode, done.stderr) == (0, "")
        if limit == 8 and not done.stdout:  # It has started: one more has ended in time.
            return
        assert re.search(rf"{said}.* \(the limit of this user's or this job's processes: `ulimit -u`\)", done.stdout)
    finally:
        kill_all(folder)
        deadline = time.monotonic() + 10
        while postgres_processes(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        shutil.rmtree(top)


def test_reason_is_the_systems_then_the_gravest_then_the_end() -> None:
    before = "2026-11-28 19:14:31.974 UTC [3025] "
    noise = f"{before}FATAL:  the database system is starting up\n"
    assert reason_in("") == ""
    assert reason_in(f"{before}LOG:  one\n{before}LOG:  two\n") == "LOG: one | LOG: two"
    refused = f"{before}LOG:  could not fork: Cannot allocate memory\n{before}FATAL:  gave up\n"
    assert reason_in(noise + refused) == "LOG: could not fork: Cannot allocate memory"
    closed = f'{before}FATAL:  data directory "/x" has invalid permissions\n{before}DETAIL:  should be 0700\n'
    assert reason_in(noise + closed).endswith(
        'FATAL: data directory "/x" has invalid permissions | DETAIL: should be 0700'
    )


def test_start_whose_data_folder_is_open_to_others_tells_postgresqls_reason(tmp_path: Path, template: Path) -> None:
    folder = fill(tmp_path / "runs", template)
    (folder / "data").chmod(0o777)
    with pytest.raises(DatabaseError, match=r"invalid permissions.*DETAIL: Permissions should be u=rwx"):
        start(folder, ServerOptions())
    assert not stop(folder).was_running
