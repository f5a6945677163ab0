"""``kdhpc status --watch``: a live view that outlasts its database and Slurm, and leaves the terminal as it was."""

import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from kdhpc.cli.main import main
from kdhpc.cli.watch import News
from kdhpc.cli.watch_view import View
from kdhpc.config.paths import StudyPaths
from kdhpc.searching.last_words import last_words
from kdhpc.searching.manifest import Manifest
from kdhpc.server.control import ServerOptions, start, stop
from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage
from tests.cli.test_table import Window
from tests.study.made import make, take
from tests.study.test_statements import Statements
from tests.workspace import until


class Terminal:
    """A terminal in which ``kdhpc`` runs."""

    def __init__(self, *argv: str, columns: int, lines: int) -> None:
        self._master, slave = os.openpty()
        self.resize(columns, lines)
        environment = {**os.environ, "TERM": "xterm", "LANG": "C.UTF-8"}
        for name in ("COLUMNS", "LINES", "LC_ALL", "LC_CTYPE"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kdhpc.cli.main", *argv], stdin=slave, stdout=slave, stderr=slave, env=environment
        )
        os.close(slave)
        self.written = ""
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def screen(self) -> list[str]:
        """The lines that were drawn last."""
        frame = self.written.rpartition("\x1b[H")[2]
        return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", frame).replace("\r", "").split("\n")]

    def shows(self, words: str) -> bool:
        return words in " ".join(" ".join(self.screen).split())

    def end(self) -> int:
        """As Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait()
        self._reading.join()
        os.close(self._master)
        return code

    def _read(self) -> None:
        while True:
            try:
                self.written += os.read(self._master, 65536).decode()
            except OSError:  # Nobody has it open any more.
                return


def test_watch_outlasts_its_database_and_leaves_the_terminal_clean(storage: Storage, server_folder: Path) -> None:
    study = make(storage, target=6)
    take(study).complete(50.0)
    running = take(study)
    terminal = Terminal("status", "--study", "tiny", "--watch", "1", columns=80, lines=24)
    try:
        until(lambda: terminal.shows("1 of 6: 1 complete, 1 running"), every_s=0.2)
        terminal.resize(40, 30)
        until(lambda: terminal.shows("1 of 6") and len(terminal.screen) == 30, every_s=0.2)
        assert max(map(len, terminal.screen)) <= 40
        try:
            stop(server_folder)
            until(lambda: terminal.shows("AWAY"), every_s=0.2)
            assert terminal.shows("1 of 6: 1 complete, 1 running"), "what was known stays"
        finally:
            start(server_folder, ServerOptions())
        running.complete(60.0)
        until(lambda: terminal.shows("2 of 6") and not terminal.shows("AWAY"), every_s=0.2)
    finally:
        code = terminal.end()
    assert code == 130
    before, _, after = terminal.written.rpartition("\x1b[?1049l")
    assert "\x1b[?1049h" in before, "a screen of its own"
    assert "\x1b[?25h" in terminal.written, "the cursor is back"
    assert "2 of 6" in after, "the last view stays"
    assert after.rstrip().endswith("kdhpc: interrupted")


def test_watch_in_a_pipe_prints_a_block_for_each_reading_until_all_is_trained(storage: Storage, capsys) -> None:
    study = make(storage, target=1)
    leased = take(study)
    ending = threading.Timer(6.0, leased.complete, (50.0,))
    ending.start()
    assert main(["status", "--study", "tiny", "--watch", "1"]) == 0
    ending.join()
    out = capsys.readouterr().out
    assert "\x1b" not in out
    budgets = re.findall(r"^trials   (.*)$", out, re.MULTILINE)
    assert budgets[0] == "[------------] 0 of 1: 1 running"
    assert budgets[-1] == "[############] 1 of 1: 1 complete"
    assert len(budgets) >= 3


def test_watch_on_a_terminal_without_a_cursor_prints_blocks_of_its_width(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(make(storage, target=1)).complete(50.0)
    window = Window()
    monkeypatch.setattr(sys, "stdout", window)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((40, 24)))
    assert main(["status", "--study", "tiny", "--watch"]) == 0
    assert "\x1b" not in window.getvalue()
    assert window.getvalue().isascii()
    assert max(map(len, window.getvalue().splitlines())) <= 40


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--watch", "0.5"], "at least 1 second"),
        (["--watch", "nan"], "at least 1 second"),
        (["--watch", "tiny"], "'tiny' is no number of seconds"),
        (["--watch", "--format", "json"], "for JSON, call"),
    ],
)
def test_watch_used_wrongly_is_one_line(options: list[str], said: str, capsys) -> None:
    try:
        code = main(["status", *options])
    except SystemExit as exc:
        code = exc.code
    assert code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--watch"]])
def test_study_of_a_newer_kdhpc_is_one_line(storage: Storage, options: list[str], capsys) -> None:
    make(storage)
    comment = "COMMENT ON TABLE kdhpc_slots IS '{}'"
    known = "SELECT obj_description(to_regclass('kdhpc_slots'), 'pg_class')"
    before = storage.read(lambda connection: connection.execute(text(known)).scalar_one())
    storage.write(lambda connection: connection.execute(text(comment.format("kdhpc tables 99"))))
    try:
        assert main(["status", "--study", "tiny", *options]) == 1
    finally:
        storage.write(lambda connection: connection.execute(text(comment.format(before))))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "a newer kdhpc made the studies in this database" in err


def test_watch_asks_slurm_once_a_reading_and_does_not_wait_for_it(storage: Storage, fake_slurm) -> None:
    take(make(storage, target=3))  # By job 17_3.
    fake_slurm.answer(
        "squeue", "[ $N = 1 ] && exec sleep 60; [ $N = 2 ] && sleep 2; echo '17_3|17|RUNNING|1:00|n1|None|x'"
    )
    news = News(Storage.connect(patience_s=1), "tiny", 0.2)
    readings = set()

    def view() -> View | None:
        found = news.view()
        readings.update(() if found is None else (found.read_at,))
        return found

    with news.coming():
        until(view, every_s=0.02)
        assert "squeue did not answer within 5 s" in until(lambda: view().asides.problem, every_s=0.02)
        assert len(readings) >= 3, "the view has gone on meanwhile"
        jobs = until(lambda: view().asides.jobs, every_s=0.02)
        assert [(job.job, job.condition) for job in jobs] == [("17_3", "running")]
        assert view().asides.problem is None
        enough = len(readings) + 3
        until(lambda: view() and len(readings) >= enough, every_s=0.02)
        assert len(fake_slurm.calls("squeue")) <= len(readings)


def test_watch_without_slurm_shows_no_jobs(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    take(make(storage, target=3))
    monkeypatch.setenv("PATH", "/nowhere")
    news = News(Storage.connect(patience_s=1), "tiny", 0.2)
    with news.coming():
        news.complete.wait()
        assert (news.view().asides.jobs, news.view().asides.problem) == (None, None)


def test_watch_finds_a_worker_lost_whose_job_is_gone_with_its_last_words(storage: Storage, fake_slurm) -> None:
    take(make(storage, target=3))
    Manifest(
        study="tiny", launch="one", host="here", user="me", command=(), kdhpc="0", job=None, arrays=("17",)
    ).write()
    paths = StudyPaths.of("tiny")
    paths.launch_jobs("one").mkdir(parents=True, exist_ok=True)
    log = paths.launch_jobs("one") / "17_3_0_log.out"
    log.write_text("trial 0: starts\nslurmstepd: error: Detected 1 oom_kill event\n\n")
    fake_slurm.queue("17_4 RUNNING")
    news = News(Storage.connect(patience_s=1), "tiny", 0.2)
    try:
        with news.coming():
            view = until(lambda: (view := news.view()) and view.asides.last_words and view, every_s=0.05)
        assert [(worker.job, worker.lost) for worker in view.workers] == [("17_3", True)]
        assert view.asides.last_words == {"17_3": "slurmstepd: error: Detected 1 oom_kill event"}
        assert last_words("tiny", ["17_4", "local-4", "17_3@gpu"]) == {
            "17_3@gpu": "slurmstepd: error: Detected 1 oom_kill event"
        }
    finally:
        log.unlink()
        paths.launch("one").unlink()


def test_status_takes_as_many_statements_in_a_large_study_as_in_a_small_one(storage: Storage) -> None:
    study = make(storage, target=60)
    for _ in range(2):
        take(study).complete(50.0)
    counts = []
    for num_running in (1, 20):
        leases = [take(study) for _ in range(num_running)]
        with Statements() as statements:
            assert len(read_status(storage, "tiny").workers) == num_running
        counts.append(statements.count)
        for leased in leases:
            leased.crash("RuntimeError: why")
    assert counts[0] == counts[1] <= 18


def test_study_that_is_deleted_while_it_is_watched_ends_the_view(storage: Storage, capsys) -> None:
    study = make(storage, target=3)
    deleting = threading.Timer(1.5, study.delete)
    deleting.start()
    began = time.monotonic()
    assert main(["status", "--study", "tiny", "--watch", "1"]) == 1
    deleting.join()
    assert time.monotonic() - began >= 1.5
    assert "unknown study 'tiny'" in capsys.readouterr().err
