import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest

from kdhpc.errors import DatabaseError, UsageError
from kdhpc.server.control import ServerOptions, dump_path, running, start, stop
from kdhpc.server.endpoint import Endpoint, endpoint_path, read_endpoint
from kdhpc.server.ownership import NotCertainError, TakeOver
from kdhpc.server.postgres import installed_programs
from kdhpc.server.proof import last_server
from kdhpc.server.record import update
from tests.server.servers import pretend_elsewhere
from tests.users import ordinary_user

_ROOT = Path(__file__).parents[2]
_ROUND = """
import sys
from pathlib import Path
from kdhpc.server.control import ServerOptions, running, start, stop
folder = Path(sys.argv[1])
for _ in range(2):
    start(folder, ServerOptions())
    assert running(folder)
    stopped = stop(folder)
    assert stopped.dump, stopped.warning
    assert Path(folder, "data").stat().st_mode & 0o777 == 0o700
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A server's folder; whatever runs in it at the end is stopped."""
    folder = tmp_path / "runs" / "db"
    yield folder
    if (folder / "data" / "postmaster.pid").exists():
        stop(folder)


@pytest.fixture
def stopped_folder(folder: Path, template: Path) -> Path:
    """A folder in which a server was started and stopped before: a copy is quicker made than a new one."""
    shutil.copytree(template, folder)
    return folder


def connect(folder: Path, endpoint: Endpoint, **changes: object) -> None:
    """Connect as the workers do, or otherwise."""
    given = {"host": endpoint.host, "user": endpoint.user, "dbname": endpoint.database, **changes}
    passfile = str(folder / endpoint.passfile)
    psycopg2.connect(port=endpoint.port, passfile=passfile, connect_timeout=3, **given).close()


def test_start_stop_and_start_again_keep_the_data(folder: Path) -> None:
    started = start(folder, ServerOptions(workers=7))
    assert not started.already
    again = start(folder, ServerOptions(workers=99))
    assert again.already
    assert again.endpoint == started.endpoint == running(folder)
    url = started.endpoint.url(folder)
    connection = psycopg2.connect(
        host=url.host, port=url.port, user=url.username, dbname=url.database, passfile=url.query["passfile"]
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept (value integer); INSERT INTO kept VALUES (41)")
        cursor.execute("SELECT current_setting('max_connections'), usesuper FROM pg_user WHERE usename = current_user")
        assert cursor.fetchone() == ("57", False)
    connection.close()

    stopped = stop(folder)
    assert (stopped.was_running, stopped.warning, stopped.dump) == (True, None, dump_path(folder))
    listed = subprocess.run(
        [installed_programs() / "pg_restore", "--list", stopped.dump], capture_output=True, text=True, check=True
    )
    assert "TABLE DATA public kept" in listed.stdout
    assert running(folder) is None
    assert not stop(folder).was_running

    restarted = start(folder, ServerOptions())
    assert restarted.endpoint.port == started.endpoint.port, "the last port, if it is free"
    assert restarted.endpoint.pid != started.endpoint.pid
    connect(folder, restarted.endpoint)


def test_start_lets_only_the_workers_role_in_and_only_with_its_password(stopped_folder: Path) -> None:
    endpoint = start(stopped_folder, ServerOptions()).endpoint
    connect(stopped_folder, endpoint)
    password = (stopped_folder / "passfile").read_text().strip().rpartition(":")[2]
    assert len(password) >= 32
    for changes in (
        {"password": "wrong"},
        {"user": "postgres", "password": password},
        {"dbname": "postgres", "password": password},
        {"dbname": "template1", "password": password},
    ):
        with pytest.raises(psycopg2.OperationalError):
            connect(stopped_folder, endpoint, **changes)
    assert stat.S_IMODE((stopped_folder / "passfile").stat().st_mode) == 0o600
    assert stat.S_IMODE((stopped_folder / "data").stat().st_mode) == 0o700
    command = Path(f"/proc/{endpoint.pid}/cmdline").read_text()
    for shown in (
        command,
        endpoint_path(stopped_folder).read_text(),
        (stopped_folder / "server.log").read_text(),
        str(endpoint),
    ):
        assert password not in shown
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", endpoint.port), timeout=3)


def test_start_after_a_kill_recovers(stopped_folder: Path) -> None:
    endpoint = start(stopped_folder, ServerOptions()).endpoint
    os.kill(endpoint.pid, signal.SIGKILL)
    recovered = start(stopped_folder, ServerOptions())
    assert not recovered.already
    connect(stopped_folder, recovered.endpoint)


def test_start_where_the_killed_servers_number_is_another_programs(stopped_folder: Path) -> None:
    start(stopped_folder, ServerOptions())
    pid_file = stopped_folder / "data" / "postmaster.pid"
    left_behind, record = pid_file.read_text(), last_server(stopped_folder)
    stop(stopped_folder)
    owner = (stopped_folder / "data").stat()
    pid_file.write_text(left_behind.replace(str(record.pid), str(os.getpid()), 1))
    os.chown(pid_file, owner.st_uid, owner.st_gid)
    update(stopped_folder, replace(record, pid=os.getpid()))
    assert running(stopped_folder) is None
    connect(stopped_folder, start(stopped_folder, ServerOptions()).endpoint)


def test_start_twice_at_once_runs_one_server(stopped_folder: Path) -> None:
    outcomes = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(start(stopped_folder, ServerOptions()))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.already for outcome in outcomes) == [False, True, True]
    assert len({outcome.endpoint.pid for outcome in outcomes}) == 1


def test_start_without_endpoint_or_password_file_makes_them_anew(stopped_folder: Path) -> None:
    start(stopped_folder, ServerOptions())
    endpoint_path(stopped_folder).unlink()
    found = start(stopped_folder, ServerOptions())
    assert found.already
    connect(stopped_folder, found.endpoint)
    stop(stopped_folder)
    (stopped_folder / "passfile").unlink()
    connect(stopped_folder, start(stopped_folder, ServerOptions()).endpoint)


def test_start_on_a_port_in_use_names_it(stopped_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DatabaseError, match=f"--port {port} is in use"):
            start(stopped_folder, ServerOptions(port=port))
    assert start(stopped_folder, ServerOptions(port=port)).endpoint.port == port


def test_start_with_a_broken_data_folder_shows_the_log(stopped_folder: Path) -> None:
    (stopped_folder / "data" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(DatabaseError, match=r"did not start: .*no_such_setting.*server\.log"):
        start(stopped_folder, ServerOptions())
    assert running(stopped_folder) is None


def test_start_of_data_of_a_version_that_is_not_installed_names_both(stopped_folder: Path) -> None:
    (stopped_folder / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(DatabaseError, match=r"written by PostgreSQL 9, .* has .*18"):
        start(stopped_folder, ServerOptions())


def test_start_and_stop_of_a_server_that_another_machine_may_run_are_refused(stopped_folder: Path) -> None:
    pretend_elsewhere(stopped_folder, node="node17", pid=4711)
    for refused in (lambda: start(stopped_folder, ServerOptions()), lambda: stop(stopped_folder)):
        with pytest.raises(NotCertainError, match=r"started on node17 \(process 4711.*--take-over"):
            refused()
    taken = start(stopped_folder, ServerOptions(), take_over=TakeOver()).endpoint
    assert taken.node == socket.gethostname()
    connect(stopped_folder, taken)


def test_start_without_the_package_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry])
    with pytest.raises(DatabaseError, match=r"pip install 'kdhpc\[server\]'.*KDHPC_STORAGE"):
        start(folder, ServerOptions())


def test_start_for_other_machines_tells_them_this_machines_name(stopped_folder: Path) -> None:
    endpoint = start(stopped_folder, ServerOptions(listen="all", allow=("10.0.0.0/8", "fd00::/8"))).endpoint
    assert (endpoint.host, endpoint.node) == (socket.gethostname(), socket.gethostname())
    password = (stopped_folder / "passfile").read_text().splitlines()[0].rpartition(":")[2]
    connect(stopped_folder, endpoint, host="127.0.0.2", password=password)
    rules = (stopped_folder / "data" / "pg_hba.conf").read_text()
    assert "host kdhpc kdhpc 10.0.0.0/8 scram-sha-256" in rules
    assert "trust" not in rules


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"allow": ("10.0.0.300/8",)}, "--allow 10.0.0.300/8"),
        ({"port": 70000}, "--port 70000"),
        ({"workers": 0}, "--workers 0"),
    ],
)
def test_options_that_cannot_be_meant_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ServerOptions(**options)


def test_listen_name_that_is_none_of_this_machine_is_named(folder: Path) -> None:
    with pytest.raises(DatabaseError, match=r"--listen nowhere\.invalid"):
        start(folder, ServerOptions(listen="nowhere.invalid"))


def test_endpoint_file_that_is_damaged_is_named(folder: Path) -> None:
    folder.mkdir(parents=True)
    for damaged in ('{"format": "kdhpc-endpoint", "ver', "[]", '{"format": "kdhpc-endpoint", "version": 2}'):
        endpoint_path(folder).write_text(damaged)
        with pytest.raises(DatabaseError, match=r"endpoint\.json cannot be read"):
            read_endpoint(folder)


def test_endpoint_file_of_another_user_is_no_file_to_delete() -> None:
    with tempfile.TemporaryDirectory(prefix="kdhpc-test-") as top:
        Path(top).chmod(0o755)
        endpoint_path(Path(top)).write_text("{}")
        endpoint_path(Path(top)).chmod(0)
        with (
            ordinary_user(),
            pytest.raises(DatabaseError, match=r"endpoint\.json may not be read by this user: .* KDHPC"),
        ):
            read_endpoint(Path(top))


def test_stop_of_a_server_that_hangs_ends_with_an_error(stopped_folder: Path) -> None:
    pid = start(stopped_folder, ServerOptions()).endpoint.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(DatabaseError, match=r"PostgreSQL \(process \d+\) does not end"):
            stop(stopped_folder, timeout_s=1.0)
    finally:
        os.kill(pid, signal.SIGCONT)


class Surroundings:
    """Where, and as whom, a server is started and stopped in a process of its own."""

    def __init__(self, tmp_path: Path) -> None:
        self.top = tmp_path
        self.folder = tmp_path / "runs" / "db"
        self.prefix: list[str] = []
        self.environment = {**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1"}

    def round(self) -> None:
        """Start, ask, stop, twice."""
        done = subprocess.run(
            [*self.prefix, sys.executable, "-c", _ROUND, self.folder],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr


def _root_in_the_open(surroundings: Surroundings) -> None:
    """As root, below folders that everyone may enter."""
    open_top = Path("/var/tmp") / f"kdhpc-test-{os.getpid()}"
    open_top.mkdir()
    surroundings.top = open_top
    surroundings.folder = open_top / "runs" / "db"


def _private(surroundings: Surroundings) -> None:
    """As whoever runs the tests, below a folder that only they may enter, in a path too long for a Unix socket's."""
    surroundings.top.chmod(0o700)
    surroundings.folder = surroundings.top / ("long" * 30) / "runs" / "db"
    surroundings.folder.parent.mkdir(parents=True)


def _root_in_private_without_namespaces(surroundings: Surroundings) -> None:
    """As root, below a folder that only root may enter, where user namespaces cannot be had, as in many containers."""
    surroundings.top.chmod(0o700)
    tools = surroundings.top / "tools"
    tools.mkdir()
    for tool in ("setpriv", "id"):
        (tools / tool).symlink_to(shutil.which(tool))
    surroundings.environment["PATH"] = str(tools)


def _normal_user(surroundings: Surroundings) -> None:
    """As a normal user, in a private folder of theirs."""
    home = Path("/var/tmp") / f"kdhpc-test-{os.getpid()}"
    home.mkdir(mode=0o700)
    os.chown(home, 65534, 65534)
    surroundings.top = home
    surroundings.folder = home / "runs" / "db"
    surroundings.prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]


def _is_open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in (path, *path.parents))


_CASES = [_private]
if os.geteuid() == 0:
    _CASES += [_root_in_the_open, _root_in_private_without_namespaces]
    # A normal user needs Python and kdhpc, too.
    _CASES += [_normal_user] if _is_open_to_all(_ROOT) and _is_open_to_all(Path(sys.prefix)) else []


@pytest.mark.parametrize("arrange", _CASES, ids=lambda case: case.__name__.strip("_"))
def test_start_as_anyone_anywhere_works(arrange: object, tmp_path: Path) -> None:
    copies = set(Path("/var/tmp").glob("kdhpc-postgresql-*"))
    surroundings = Surroundings(tmp_path)
    arrange(surroundings)
    try:
        surroundings.round()
    finally:
        if surroundings.top != tmp_path:
            shutil.rmtree(surroundings.top)
        for copy in set(Path("/var/tmp").glob("kdhpc-postgresql-*")) - copies:
            shutil.rmtree(copy)


def test_commands_of_db_in_order(stopped_folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "KDHPC_RUNS": str(stopped_folder.parent), "PYTHONPATH": str(_ROOT)}

    def db(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "kdhpc.cli.main", "db", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)

    not_there = db("url")
    assert not_there.returncode == 1
    assert "kdhpc db start" in not_there.stderr
    environment["KDHPC_STORAGE"] = "postgresql://elsewhere/kdhpc"
    for command in ("url", "status"):
        assert "KDHPC_STORAGE is set, so kdhpc uses the server named there" in db(command).stderr
    del environment["KDHPC_STORAGE"]
    started = db("start", "--workers", "3")
    assert started.returncode == 0, started.stderr
    assert "running already" in db("start").stderr
    status = db("status", "--format", "json")
    assert status.returncode == 0
    assert json.loads(status.stdout)["running"] is True
    url = db("url").stdout.strip()
    assert url.startswith("postgresql+psycopg2://kdhpc@127.0.0.1:")
    assert (stopped_folder / "passfile").read_text().strip().rpartition(":")[2] not in url
    stopped = db("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "")
    assert "kdhpc.dump" in stopped.stderr
    status = db("status", "--format", "json")
    assert (status.returncode, json.loads(status.stdout)["running"]) == (1, False)
