"""Makes the fixtures of one version of kdhpc: what its users have on their disks and in their database.

    .venv/bin/python -m tests.upgrades.make_fixtures NAME

in a clean checkout writes ``tests/upgrades/fixtures/NAME``. Run it by hand at each release, with the version as NAME,
and commit what it writes; the fixtures of earlier versions stay as they are, for good. It takes a minute or two, on
two cores that are free. In the folder:

``facts.json``
    What made them (commit, versions, processor), and what the trainings came to that were not broken off.
``study.sql``
    The database, as ``pg_dump --inserts`` writes it: one study, with trials that are complete, pruned, waiting, and
    held by a worker that was killed.
``runs/tiny``
    That study's files. The trial that was held has a checkpoint.
``runs/train``
    Final trainings: one that was stopped on its way (``half``), and some that are done, of a graph of two nodes
    (``graph``), of ONE (``one``), and of a student of the first (``student``).
``tiny-best.json``
    A graph as ``kdhpc export-best`` writes it.

``@FOLDER@`` stands for the folder in which they were made, ``@HOST@`` and ``@USER@`` for where and by whom.
"""

import argparse
import getpass
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import kdhpc
from kdhpc.server.postgres import installed_programs
from tests.upgrades.place import STUDY, TRAIN, accuracies, make_place, what_rounds
from tests.workspace import Workspace, until

FIXTURES = Path(__file__).parent / "fixtures"
_ROOT = Path(__file__).parents[2]
_HALF_EPOCHS = 5
# What belongs to this server, its version and its session.
_SQL_TO_LEAVE = ("--", "COMMENT ON SCHEMA", "SET ", "\\", "SELECT pg_catalog.set_config('search_path'")


def main() -> None:
    """Make them all."""
    parser = argparse.ArgumentParser(description="Makes the fixtures of this version of kdhpc.")
    parser.add_argument("name", help="of the folder in tests/upgrades/fixtures: the version")
    target = FIXTURES / parser.parse_args().name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        place = make_place(Path(folder))
        _done(place, "db", "start")
        try:
            facts = {**_made_by(), "dataset_checksum": _checksum(place)}
            facts["trials"] = trials = _whole_study(place, target)
            _break_study(place, trials)
            (target / "study.sql").write_text(_dump(place))
            facts["half"] = _half_training(place)
            _finished_trainings(place, target / f"{STUDY}-best.json")
        finally:
            place.close()
        _keep(place, target)
    (target / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")
    for path in (path for path in target.rglob("*") if path.suffix in (".json", ".jsonl", ".yaml", ".sql")):
        path.write_text(_anonymous(path.read_text(), folder))


def _made_by() -> dict[str, object]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=_ROOT, capture_output=True, text=True, check=True)
    return {
        "kdhpc": kdhpc.__version__,
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        **what_rounds(),
    }


def _checksum(place: Workspace) -> str:
    return str(json.loads((place.folder / "data" / "tiny" / "manifest.json").read_text())["checksum"])


def _whole_study(place: Workspace, target: Path) -> dict[str, list[float]]:
    """Search to the end, and export; gives each trial's accuracies. The study is deleted again."""
    _done(place, "search", "--study", STUDY, "--workers", "1")
    _done(place, "export-best", "--study", STUDY, "--top", "1")
    runs = place.paths(STUDY)
    shutil.copy(runs.export / f"{STUDY}-best.json", target)
    trials = {str(number): accuracies(runs.metrics(number)) for number in range(place.read(STUDY).target)}
    _done(place, "db", "delete-study", STUDY, "--yes")
    shutil.rmtree(runs.root)
    return trials


def _break_study(place: Workspace, whole: dict[str, list[float]]) -> None:
    """Search, and kill the worker in a trial that is not to be pruned, when one is complete and one pruned."""
    longest = max(map(len, whole.values()))
    search = place.start("search", "--study", STUDY, "--workers", "1")
    until(lambda: (place.runs / "db" / "endpoint.json").exists())

    def caught() -> object:
        (worker,) = place.catch(STUDY)
        counts, trial = place.read(STUDY).trials, worker.trial
        reports = accuracies(place.paths(STUDY).metrics(trial))
        is_to_end = len(whole[str(trial)]) == longest
        if is_to_end and counts.complete and counts.pruned and 2 <= len(reports) < longest - 1:
            return worker
        worker.let_go()
        return None

    worker = until(caught, every_s=0.05)
    # Its launcher would start another one.
    os.kill(search.pid, signal.SIGKILL)
    os.kill(worker.pid, signal.SIGKILL)
    search.communicate()


def _dump(place: Workspace) -> str:
    """The database as plain SQL, for a server of any version."""
    url = place.run("db", "url").stdout.strip().replace("+psycopg2", "")
    version = (place.runs / "db" / "data" / "PG_VERSION").read_text().strip()
    done = subprocess.run(
        [installed_programs(version) / "pg_dump", "--inserts", "--no-owner", "--no-privileges", f"--dbname={url}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    lines = (line for line in done.stdout.splitlines() if line and not line.startswith(_SQL_TO_LEAVE))
    return "\n".join(lines) + "\n"


def _half_training(place: Workspace) -> dict[str, object]:
    """Stop a final training half-way; gives what it comes to where it is not stopped."""
    argv = ("train", "--graph", "independent", "--nodes", "1", *TRAIN, "run.name=half", "--seeds", "3")
    _done(place, *argv)
    folder = place.runs / "train" / "half" / "seed3"
    result = json.loads((folder / "result.json").read_text())
    shutil.rmtree(folder)
    training = place.start(*argv)
    metrics = folder / "metrics.jsonl"
    until(lambda: len(accuracies(metrics)) >= _HALF_EPOCHS, every_s=0.02)
    training.send_signal(signal.SIGINT)
    training.communicate()
    assert not (folder / "result.json").exists(), "it was too quick to be stopped"
    return {key: result[key] for key in ("node_accuracies", "ensemble_accuracy", "weights")}


def _finished_trainings(place: Workspace, graph: Path) -> None:
    shutil.copy(graph, place.folder)
    short = ("training.epochs=2", "training.milestones=[]")
    _done(place, "train", "--graph", graph.name, *TRAIN, *short, "run.name=graph")
    _done(place, "train", "--graph", "one", "--nodes", "2", *TRAIN, *short, "run.name=one")
    teacher = ("--teacher", "runs/train/graph/seed0")
    _done(place, "train", "--graph", "student", *teacher, *TRAIN, *short, "run.name=student")


def _keep(place: Workspace, target: Path) -> None:
    """What a later version needs of the runs: no logs, and nothing that a process alone has needed."""
    ignored = shutil.ignore_patterns("jobs", "export", "lock", "owner.json", ".*")
    for name in (STUDY, "train"):
        shutil.copytree(place.runs / name, target / "runs" / name, ignore=ignored)


def _anonymous(text: str, folder: str) -> str:
    for found, stands in ((folder, "@FOLDER@"), (socket.gethostname(), "@HOST@"), (str(_ROOT), "@FOLDER@")):
        text = text.replace(found, stands)
    return text.replace(f'"user": "{getpass.getuser()}"', '"user": "@USER@"')


def _done(place: Workspace, *argv: str) -> None:
    done = place.run(*argv)
    print(f"kdhpc {' '.join(argv)}: exit {done.returncode}", file=sys.stderr)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    main()
