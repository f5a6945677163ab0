"""Who trains a run: two nodes whose locks do not meet, processes that were killed, file systems without locks."""

import json
import logging
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kdhpc.config.paths import RunPaths
from kdhpc.errors import RunTakenError
from kdhpc.files.writing import write_whole
from kdhpc.final.owner import owned
from kdhpc.processes import process_space
from tests.faults import faulty_disk
from tests.final.conftest import Place
from tests.final.test_final import StopAfter, train
from tests.final.test_train_command import LONG, same_weights, wait_for

SINGLE = ("run.num_nodes=1", "run.name=run")
COMMAND = ("train", "--graph", "dml", "--nodes", "2", *LONG)


class Elsewhere(Place):
    """As on another node: processes with numbers and a host's name of their own."""

    def start(self, *argv: str, **more: str) -> "subprocess.Popen[str]":
        program = 'hostname node-b && exec "$@"'
        process = subprocess.Popen(
            [
                *("unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"),
                *("sh", "-c", program, "sh", sys.executable, "-m", "kdhpc.cli.main", *argv),
            ],
            cwd=self.folder,
            env={**os.environ, **self.environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process


@pytest.fixture
def nodes(faultfs, tmp_path, shared) -> Iterator[tuple[Place, Place]]:
    """Two nodes with one folder of runs, whose locks do not meet, and which see each other's changes late."""
    options = "entry_timeout=3,attr_timeout=3,negative_timeout=30"
    with (
        faulty_disk(faultfs, tmp_path / "a", locks="local", options=options) as one,
        faulty_disk(faultfs, tmp_path / "b", backing=one.backing, locks="local", options=options) as other,
    ):
        here, there = Place(one.path.parent, shared), Elsewhere(other.path.parent, shared)
        for place, disk in ((here, one), (there, other)):
            place.runs = disk.path
            place.environment["KDHPC_RUNS"] = str(disk.path)
        yield here, there
        here.close()
        there.close()


def test_two_nodes_whose_locks_do_not_meet_train_a_run_once(nodes, monkeypatch):
    """The newer one goes on, and has said so; the older one stops; the bits are those of one that ran alone."""
    here, there = nodes
    command = tuple("training.epochs=12" if word == "training.epochs=24" else word for word in COMMAND)
    seed = here.runs / "train" / "run" / "seed0"
    older = here.start(*command, "run.name=run")
    wait_for(seed / "checkpoint.pt")
    os.kill(older.pid, signal.SIGSTOP)  # As slow as may be.
    newer = there.start(*command, "run.name=run")
    said = newer.stderr.readline()
    assert re.search(
        rf"{there.runs}/train/run/seed0 was begun by process {older.pid} on {re.escape(platform.node())} at .*, "
        "which has not said that it ended: if it still runs, one of the two stops",
        said,
    )
    os.kill(older.pid, signal.SIGCONT)
    out, err = older.communicate(timeout=300)
    assert (older.returncode, out) == (1, ""), err
    assert re.fullmatch(
        rf"kdhpc: {seed} was begun again by process \d+ on node-b at .*: this one stops and writes nothing more",
        err.splitlines()[-1],
    )
    out, err = newer.communicate(timeout=300)
    assert newer.returncode == 0, err
    assert out.startswith("run seed 0: ensemble ")
    assert not (seed / "owner.json").exists()
    for name, value in here.environment.items():
        monkeypatch.setenv(name, value)
    train(here.config("run.graph=dml", "run.num_nodes=2", "training.epochs=12", "run.name=whole"))
    for node in (0, 1):
        assert same_weights(RunPaths(seed).weights(node), RunPaths.of("whole", 0).weights(node))


def begun(place, **changes):
    """A run that was begun, with the record of its owner as a killed process leaves it."""
    train(place.config(*SINGLE), stop=StopAfter(3))
    paths = RunPaths.of("run", 0)
    with owned(paths) as owner:
        record = {**json.loads(paths.owner.read_text()), **changes}
        assert owner.is_own()
    paths.owner.write_text(json.dumps(record))
    return paths


def test_run_of_a_process_that_was_killed_here_goes_on_without_a_word(place, caplog):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    begun(place, pid=child.pid)
    with caplog.at_level(logging.WARNING):
        assert train(place.config(*SINGLE))[0] is not None
    assert caplog.messages == []
    assert not RunPaths.of("run", 0).owner.exists()


@pytest.mark.parametrize("changes", [{"space": "another boot pid:[1]"}, {}])
def test_run_whose_owner_may_still_live_goes_on_and_says_so(place, caplog, changes):
    """Of another machine; or of this very process, which cannot be told from a second training in it."""
    paths = begun(place, **changes)
    with caplog.at_level(logging.WARNING):
        assert train(place.config(*SINGLE))[0] is not None
    (said,) = caplog.messages
    assert said.startswith(f"{paths.root} was begun by process {os.getpid()} on {platform.node()} at ")


def test_run_that_another_process_begins_stops_before_it_writes_anything(place):
    paths = begun(place)
    other = json.loads(paths.owner.read_text())
    checkpoint = paths.checkpoint.read_bytes()

    def take_over():
        write_whole(paths.owner, json.dumps({**other, "token": "another", "host": "node-b"}))
        return False

    with pytest.raises(RunTakenError, match=r"run/seed0 was begun again by process \d+ on node-b at "):
        train(place.config(*SINGLE), stop=take_over)
    assert paths.checkpoint.read_bytes() == checkpoint
    assert not paths.result.exists()
    assert not paths.weights(0).exists()


@pytest.mark.parametrize("takes_over", [True, False])
def test_run_that_another_process_finishes_meanwhile_stops(place, takes_over):
    config = place.config(*SINGLE)
    train(config)
    paths = RunPaths.of("run", 0)
    result = paths.result.read_bytes()
    paths.result.unlink()

    def finish():
        if takes_over:
            paths.owner.unlink(missing_ok=True)
        write_whole(paths.result, result)
        return False

    with pytest.raises(RunTakenError, match="was trained to its end by another process: this one stops"):
        train(config, stop=finish)
    assert paths.result.read_bytes() == result


def test_run_that_is_stopped_after_it_was_taken_does_not_say_that_it_goes_on(place):
    paths = begun(place)
    other = json.loads(paths.owner.read_text())

    def take_over_and_stop():
        write_whole(paths.owner, json.dumps({**other, "token": "another"}))
        return True

    with pytest.raises(RunTakenError):
        train(place.config(*SINGLE), stop=take_over_and_stop)
    assert json.loads(paths.owner.read_text())["token"] == "another", "only its own record is removed"


def test_record_that_cannot_be_read_for_a_while_ends_no_training(place, faulty, caplog):
    config = place.config(*SINGLE)

    def refuse():
        faulty.rules("open seed0/owner.json err=EACCES")
        return False

    with caplog.at_level(logging.WARNING):
        assert train(config, stop=refuse)[0] is not None
    assert "whether another process trains " in caplog.text
    assert "owner.json cannot be read: Permission denied" in caplog.text


@pytest.mark.parametrize("error", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_folder_that_cannot_be_locked_is_said_in_one_line(place, faulty, caplog, error):
    faulty.rules(f"flock * err={error}")
    with caplog.at_level(logging.WARNING):
        assert train(place.config(*SINGLE))[0] is not None
    (said,) = caplog.messages
    assert said.startswith(f"{RunPaths.of('run', 0).root} cannot be locked (")


def test_owner_record_says_who_trains(place):
    paths = RunPaths.of("run", 0)
    with owned(paths):
        record = json.loads(paths.owner.read_text())
    assert (record["host"], record["pid"], record["space"]) == (platform.node(), os.getpid(), process_space())
    assert not paths.owner.exists()
