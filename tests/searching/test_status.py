"""``kdhpc status``: what it shows, and that it never waits for long."""

import json
import time

from kdhpc.cli.main import main
from kdhpc.cli.progress import progress_line
from kdhpc.config.paths import StudyPaths
from kdhpc.files.json_text import parse_json
from kdhpc.searching.manifest import Manifest
from kdhpc.server.control import ServerOptions, start, stop
from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage
from tests.study.made import make, take


def rows(capsys) -> list[str]:
    """With single blanks."""
    assert main(["status", "--study", "tiny"]) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_status_shows_all_trials_of_a_job(storage: Storage, fake_slurm, capsys) -> None:
    study = make(storage, target=3)
    Manifest(
        study="tiny", launch="one", host="here", user="me", command=(), kdhpc="0", job=None, arrays=("17",)
    ).write()
    for _ in range(2):  # The job of these tests is 17_3.
        take(study)
    fake_slurm.queue("17_3 RUNNING", "17_4 PENDING")
    shown = rows(capsys)
    assert "17_3 node1 0,1 1:00:00 running" in shown
    assert "17_4 node1 - 1:00:00 waiting (None)" in shown
    StudyPaths.of("tiny").launch("one").unlink()


def test_status_says_why_trials_crashed(storage: Storage, capsys) -> None:
    study = make(storage, target=12, max_attempts=1)
    for number in range(11):
        take(study).crash(f"RuntimeError: number {number} (on node7)")
    shown = rows(capsys)
    head = shown.index("crashed attempts state reason")
    assert len(shown) == head + 12, "the last ten, and that there are more"
    assert shown[head + 1] == "1 1 failed RuntimeError: number 1 (on node7)"
    assert shown[-1] == "and 1 before: `kdhpc status --study tiny --format json`"
    assert main(["status", "--study", "tiny", "--format", "json"]) == 0
    crashes = json.loads(capsys.readouterr().out)["crashes"]
    assert [crash["number"] for crash in crashes] == list(range(11))
    assert crashes[0]["reason"] == "RuntimeError: number 0 (on node7)"


def test_status_names_diverged_trials_and_progress_only_those_that_there_are(storage: Storage, capsys) -> None:
    study = make(storage, target=3)
    take(study).complete(50.0)
    assert "diverged" not in progress_line(read_status(storage, "tiny"))
    take(study).diverge(1, "the loss of node 2 is not finite")
    shown = rows(capsys)
    assert "trials 1 complete, 0 pruned, 1 diverged, 0 running, 1 waiting, 0 failed" in shown
    assert shown[-2:] == ["diverged epoch reason", "1 1 the loss of node 2 is not finite"]
    assert "tiny: 2/3 trials (1 complete, 0 pruned, 1 diverged), 0 running" in progress_line(
        read_status(storage, "tiny")
    )
    assert main(["status", "--study", "tiny", "--format", "json"]) == 0
    document = parse_json(capsys.readouterr().out)
    assert document["trials"]["diverged"] == 1
    assert document["diverged"] == [{"number": 1, "epoch": 1, "reason": "the loss of node 2 is not finite"}]
    assert document["foreign_trials"] == 0


def test_status_while_the_database_goes_away_ends_soon(storage: Storage, server_folder, monkeypatch, capsys) -> None:
    make(storage)
    connect = Storage.connect

    def then_lose_it(**options: float) -> Storage:
        connected = connect(**options)
        stop(server_folder)
        return connected

    monkeypatch.setattr(Storage, "connect", then_lose_it)
    began = time.monotonic()
    try:
        assert main(["status", "--study", "tiny"]) == 1
    finally:
        start(server_folder, ServerOptions())
    assert time.monotonic() - began < 60
    assert "cannot be reached" in capsys.readouterr().err
