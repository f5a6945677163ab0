"""Who hosts the database: launching jobs that come and go, on a real server of their own."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from kdhpc.cluster.signals import StopSignals
from kdhpc.config.schema import ClusterConfig
from kdhpc.errors import ClusterError, DatabaseError, StorageError
from kdhpc.files.locking import FileLock
from kdhpc.searching import server_host as room
from kdhpc.searching.server_host import HOSTED, ServerHost
from kdhpc.server import take_over as taking
from kdhpc.server.control import ServerOptions, dump_path, running, start, stop
from kdhpc.server.endpoint import read_endpoint
from kdhpc.server.ownership import TakeOver
from kdhpc.server.proof import last_server
from kdhpc.server.record import claim, record_path, update
from kdhpc.server.take_over import TakeoverTimeouts
from kdhpc.study.storage import Storage
from tests.server.servers import postgres_processes, pretend_elsewhere


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    runs = tmp_path_factory.mktemp("hosted") / "runs"
    yield runs
    stop(runs / "db")


@pytest.fixture
def folder(runs: Path, fake_slurm, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a server that does not run."""
    monkeypatch.setenv("KDHPC_RUNS", str(runs))
    monkeypatch.delenv("KDHPC_STORAGE", raising=False)
    monkeypatch.setattr(room, "_POLL_S", 0.05)
    stop(runs / "db")
    fake_slurm.queue("1 RUNNING", "2 RUNNING")
    return runs / "db"


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch):
    """Gives the server host of a launching job; None: of a shell."""

    def of(number: int | None, signals: StopSignals | None = None) -> ServerHost:
        if number is None:
            monkeypatch.delenv("SLURM_JOB_ID", raising=False)
        else:
            monkeypatch.setenv("SLURM_JOB_ID", str(number))
        return ServerHost(ClusterConfig(), signals or StopSignals(), TakeoverTimeouts(probe_s=0.2, lock_file_s=0.2))

    return of


def ask() -> int:
    storage = Storage.connect(patience_s=1.0)
    try:
        return storage.read(lambda connection: connection.execute(text("SELECT 42")).scalar_one())
    finally:
        storage.close()


def test_launch_of_a_process_that_hosts_the_server_neither_ends_nor_starts_it(
    folder: Path, job, monkeypatch: pytest.MonkeyPatch
) -> None:
    with job(1):
        with monkeypatch.context() as started_by_it:
            started_by_it.setenv(HOSTED, "1")
            with job(1) as child:
                assert (child.ends_server, child.is_bound, child.attend(ask)) == (False, False, 42)
        assert ask() == 42
    monkeypatch.setenv(HOSTED, "1")
    job(1).keep_up()
    assert running(folder) is None


def test_hosting_ends_the_server_that_its_job_started(folder: Path, job) -> None:
    with job(1) as first:
        assert (first.ends_server, first.is_bound) == (True, True)
        with job(2) as second:
            assert (second.ends_server, second.is_bound) == (False, True)
        assert ask() == 42
    assert running(folder) is None
    assert dump_path(folder).exists()


def test_hosting_that_finds_the_server_just_started_by_another_leaves_it(folder: Path, job, monkeypatch) -> None:
    with job(1):
        with monkeypatch.context() as early:
            early.setattr(room, "running", lambda folder: None)
            second = job(2).__enter__()
        assert not second.ends_server
        second.__exit__(None, None, None)
        assert ask() == 42


def test_hosting_takes_over_when_the_host_is_done(folder: Path, job) -> None:
    first = job(1).__enter__()
    with job(2) as second:
        first.__exit__(None, None, None)
        assert running(folder) is None
        assert second.attend(ask) == 42
        assert second.ends_server

        def fails_once(answers: Iterator[bool]) -> int:
            if next(answers):
                raise DatabaseError("the host went away in the middle")
            return ask()

        answers = iter((True, False))
        assert second.attend(lambda: fails_once(answers)) == 42
    assert running(folder) is None


def test_hosting_takes_over_what_outlived_its_job(folder: Path, job, fake_slurm) -> None:
    job(1).__enter__()
    fake_slurm.queue("2 RUNNING")
    with job(2) as second:
        endpoint = read_endpoint(folder)
        assert endpoint is not None
        assert endpoint.job == "2"
        assert second.ends_server
    assert running(folder) is None


def test_hosting_leaves_a_server_that_another_machine_runs(folder: Path, job) -> None:
    """The same job, requeued to another machine, where the server did not end with it."""
    with job(1) as here:
        record = last_server(folder)
        assert record is not None
        pretend_elsewhere(folder, pid=record.pid)
        assert not here.ends_server
        update(folder, record)


@pytest.fixture
def elsewhere(folder: Path, job, fake_slurm) -> Iterator[Path]:
    """The lock file of a server on another machine, whose job 1 has ended; it does not answer."""
    with job(1):
        pass
    stopped = last_server(folder)
    assert stopped is not None
    server = pretend_elsewhere(folder)
    fake_slurm.queue("2 RUNNING", "3 RUNNING")
    lock_file = folder / "data" / "postmaster.pid"
    lock_file.write_text(f"{server.pid}\n{folder}/data\n0\n{server.port}\n")
    yield lock_file
    last = last_server(folder)
    if last is not None and last.number == server.number:
        lock_file.unlink(missing_ok=True)
        update(folder, stopped)


def test_hosting_takes_over_from_another_machine_when_it_had_time_to_end(
    folder: Path, job, elsewhere: Path, monkeypatch, caplog
) -> None:
    def start_without_the_lock_file(*arguments: object, take_over: TakeOver) -> object:
        assert not elsewhere.exists()
        return start(*arguments, take_over=take_over)

    monkeypatch.setattr(taking, "start", start_without_the_lock_file)
    with job(2) as second:
        assert ask() == 42
        assert second.ends_server
    assert "PostgreSQL on elsewhere does not answer, and job 1, which ran it, has ended" in caplog.text
    assert "removed PostgreSQL's lock file; waiting" in caplog.text


def test_hosting_takes_nothing_over_that_answers_again(folder: Path, job, elsewhere: Path, monkeypatch) -> None:
    monkeypatch.setattr(taking, "running", lambda folder: read_endpoint(folder))
    with pytest.raises(DatabaseError, match="it runs again"):
        job(2).keep_up()
    assert elsewhere.exists()


def test_hosting_takes_nothing_over_from_a_later_start(folder: Path, job, elsewhere: Path, monkeypatch) -> None:
    """The launcher on the other machine starts its server again in the very last moment."""

    def start_after_another(*arguments: object, take_over: TakeOver) -> object:
        gone = last_server(folder)
        assert claim(folder, replace(gone, number=gone.number + 1, token="later"))
        try:
            return start(*arguments, take_over=take_over, timeout_s=2.0)
        finally:
            record_path(folder, gone.number + 1).unlink()

    monkeypatch.setattr(taking, "start", start_after_another)
    with pytest.raises(DatabaseError, match="started on elsewhere"):
        job(2).keep_up()
    assert postgres_processes(folder) == set()


def test_hosting_on_a_full_disk_tries_again(folder: Path, job, monkeypatch, caplog) -> None:
    outcomes = iter([StorageError("endpoint.json cannot be written: Disk quota exceeded")])

    def start_later(*arguments: object, **options: object) -> object:
        for refusal in outcomes:
            raise refusal
        return start(*arguments, **options)

    monkeypatch.setattr(room, "start", start_later)
    with job(1):
        assert ask() == 42
    assert "Disk quota exceeded; trying again" in caplog.text


def test_hosting_leaves_a_server_of_a_running_job(folder: Path, job, elsewhere: Path, fake_slurm) -> None:
    fake_slurm.queue("1 RUNNING", "2 RUNNING")
    with pytest.raises(DatabaseError, match=r"started on elsewhere .*--take-over"):
        job(2).keep_up()
    assert elsewhere.exists()


def test_hosting_that_is_to_stop_takes_nothing_over(folder: Path, job, elsewhere: Path) -> None:
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(DatabaseError, match="this process is to stop"):
            job(2, signals).keep_up()
    assert running(folder) is None
    assert elsewhere.exists()


def test_hosting_leaves_a_take_over_to_the_launcher_that_began_it(folder: Path, job, elsewhere: Path) -> None:
    with FileLock.take(folder / "take-over.lock"):
        # Another launcher; and the one that ran it, on the machine that is cut off.
        for number in (3, 1):
            with pytest.raises(DatabaseError, match="another launching job takes it over"):
                job(number).keep_up()
    assert running(folder) is None


def test_hosting_below_a_link_knows_its_own_server(runs: Path, folder: Path, job, monkeypatch, tmp_path) -> None:
    link = tmp_path / "link"
    link.symlink_to(runs)
    dump_path(folder).unlink(missing_ok=True)
    monkeypatch.setenv("KDHPC_RUNS", str(link))
    with job(1) as first:
        assert (first.ends_server, first.is_bound) == (True, True)
        assert ask() == 42
        monkeypatch.setenv("KDHPC_RUNS", str(runs))
        with job(2) as second:
            assert (second.ends_server, second.is_bound) == (False, True)
            # Job 1 ends, and its server does not: whoever is left knows it through any path.
            assert start(link / "db", ServerOptions()).already
    assert running(folder) is None
    assert dump_path(folder).exists()


def test_hosting_below_a_link_takes_over_what_outlived_its_job(
    runs: Path, folder: Path, job, fake_slurm, monkeypatch, tmp_path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(runs)
    job(1).__enter__()
    fake_slurm.queue("2 RUNNING")
    monkeypatch.setenv("KDHPC_RUNS", str(link))
    with job(2) as second:
        assert second.ends_server
    assert running(folder) is None


def test_hosting_of_a_shell_leaves_the_server_running(folder: Path, job) -> None:
    with job(None) as shell:
        assert (shell.ends_server, shell.is_bound) == (False, True)
    assert ask() == 42


def test_hosting_opens_a_database_that_was_started_for_this_machine_alone(folder: Path, job) -> None:
    """As `tools/quickstart` and `kdhpc search` leave one."""
    local = start(folder, ServerOptions()).endpoint
    storage = Storage.connect()
    storage.write(lambda connection: connection.execute(text("CREATE TABLE IF NOT EXISTS found (value integer)")))
    with pytest.raises(ClusterError, match=r"listens on 127\.0\.0\.1 only, .*it is in use.*`kdhpc db stop`"):
        job(1).keep_up()
    assert running(folder) == local
    storage.close()
    with job(1) as first:
        assert (first.ends_server, first.is_bound) == (True, True)
        opened = read_endpoint(folder)
        assert opened is not None
        assert (opened.host, opened.port, opened.job) == (local.node, local.port, "1")
        storage.read(lambda connection: connection.execute(text("SELECT * FROM found")))
        storage.close()
    assert running(folder) is None


def test_hosting_that_is_out_of_time_writes_no_dump(folder: Path, job) -> None:
    dump_path(folder).unlink(missing_ok=True)
    with StopSignals() as signals, job(1, signals):
        signal.raise_signal(signal.SIGUSR2)
    assert running(folder) is None
    assert not dump_path(folder).exists()


def test_hosting_where_only_this_machine_could_reach_it_is_refused(folder: Path, job, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    for listen in ("127.0.0.1", "localhost", "::1"):
        with pytest.raises(ClusterError, match=r"set cluster\.listen to `all`"):
            ServerHost(ClusterConfig(listen=listen), StopSignals()).__enter__()
    assert running(folder) is None
