"""``kdhpc train`` as users run it: real processes, real signals, real jobs."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdhpc.cli.main import main
from kdhpc.config.paths import RunPaths
from kdhpc.final.lock import hold_lock
from kdhpc.graph.presets import dml
from kdhpc.graph.serial import write_graph
from kdhpc.training.metrics import read_metrics
from tests.final.conftest import TINY
from tests.screens import Screen, in_terminal

LONG = (*TINY, "training.epochs=24", "run.checkpoint_every_s=0.02")


def wait_for(path: Path) -> None:
    for _ in range(12000):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"no {path} after ten minutes")


def same_weights(first: Path, second: Path) -> bool:
    one, other = load_file(first), load_file(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_train_killed_and_terminated_goes_on_to_the_same_weights(place):
    """Against one that ran through: SIGKILL, then SIGTERM, then to its end."""
    command = ("train", "--graph", "dml", "--nodes", "2", *LONG)
    assert place.run(*command, "run.name=whole").returncode == 0
    run = place.runs / "train" / "pieces" / "seed0"
    killed = place.start(*command, "run.name=pieces")
    wait_for(run / "checkpoint.pt")
    killed.kill()
    killed.communicate()
    assert not (run / "result.json").exists()

    stopped = place.start(*command, "run.name=pieces")
    said = ""
    while "goes on after epoch" not in said:
        said = stopped.stderr.readline()
        assert said, "ended without going on"
    stopped.terminate()
    _, err = stopped.communicate()
    assert stopped.returncode == 130, err
    assert "the same command goes on" in err
    assert not (run / "result.json").exists()

    last = place.run(*command, "run.name=pieces")
    assert last.returncode == 0, last.stderr
    assert "goes on after epoch" in last.stderr
    assert last.stdout.startswith("pieces seed 0: ensemble ")
    for node in ("node1.safetensors", "node2.safetensors"):
        assert same_weights(run / node, place.runs / "train" / "whole" / "seed0" / node)
    assert [report.epoch for report in read_metrics(run / "metrics.jsonl")] == list(range(1, 25))


def test_train_seeds_then_results_and_nothing_is_repeated(place):
    command = ("train", "--graph", "one", "--nodes", "3", "--seeds", "0..1", *TINY)
    done = place.run(*command)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"tiny-resnet8-one3 seed {seed}" for seed in (0, 1)]
    assert "epoch 2/2" in done.stderr
    again = place.run(*command)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert "epoch 2/2" not in again.stderr
    table = place.run("results")
    assert table.returncode == 0
    assert "±" in table.stdout


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--graph", "dmll", "--nodes", "2"], 1, "did you mean 'dml'?"),
        (["--graph", "one"], 2, "--nodes"),
        (["--graph", "dml,one", "--nodes", "0"], 2, "run.num_nodes=0"),
        (["--graph", "dml", "--nodes", "2", "--seeds", "4..0"], 2, "--seeds 4..0"),
        (["--graph", "dml", "--nodes", "2", "dataset=tinny"], 2, "did you mean 'tiny'?"),
        (["--graph", "dml", "--nodes", "2", "run.sede=1"], 2, "did you mean 'run.seed'?"),
        (["--graph", "dml", "--nodes", "2", "network.name=resnet9"], 2, "unknown network 'resnet9'"),
        (["--graph", "dml", "--nodes", "2", "hydra.launcher.partition=x"], 2, "--launcher"),
        (["--graph", "dml", "--nodes", "2", "--launcher", "submitit_local", "dataset=tiny,tinny"], 2, "'tinny'"),
        (["--graph", "dml,gone.json", "--nodes", "2"], 1, "gone.json on tiny with resnet8, seed 0: graph 'gone.json'"),
        (["--graph", "dml,gone.json", "--nodes", "2", "--launcher", "submitit_local"], 1, "graph 'gone.json'"),
    ],
)
def test_train_bad_input_is_one_line_and_leaves_nothing(place, capsys, argv, code, said):
    given = [word for word in TINY if not any(own.startswith(word.partition("=")[0] + "=") for own in argv)]
    assert main(["train", *given, *argv]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert list(place.folder.iterdir()) == []


def test_train_graph_file_with_a_comma_in_its_name_is_one_graph(place):
    write_graph(place.folder / "o'dml,independent.json", dml(1))
    done = place.run("train", "--graph", "o'dml,independent.json", *TINY, "training.epochs=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tiny-resnet8-o'dml,independent seed 0: ensemble ")


def test_train_sweep_runs_every_combination_as_a_local_job(place):
    """From a folder of its own, with a graph that is named relative to it, and with Slurm's environment in the way."""
    (place.folder / "here").mkdir()
    write_graph(place.folder / "here" / "mine.json", dml(2), {"dataset": "dogs"})
    done = place.run(
        *("train", "--graph", "independent,here/mine.json", "--nodes", "2", "--seeds", "0..1"),
        *("--launcher", "submitit_local", "dataset=tiny", "network=tiny", "training=tiny"),
        SLURM_JOB_ID="1",
        SLURM_NTASKS="4",
    )
    assert done.returncode == 0, done.stderr
    trainings = [f"tiny-resnet8-{graph}/seed{seed}" for graph in ("independent2", "mine") for seed in (0, 1)]
    found = sorted(
        str(path.parent.relative_to(place.runs / "train")) for path in place.runs.glob("train/*/*/result.json")
    )
    assert found == trainings
    assert sorted(path.name for path in place.folder.iterdir()) == ["here", "runs"]
    assert len(list(place.runs.glob("sweeps/*/jobs/*_log.out"))) == 4
    table = place.run("results", "--format", "csv")
    assert table.stdout.count("0 1") == 2

    lines = done.stdout.splitlines()
    assert [line.split(": ensemble ")[0].replace(" seed ", "/seed") for line in lines] == trainings
    warning, logs = done.stderr.splitlines()
    assert warning.endswith("mine.json was searched with dataset dogs; it is trained with dataset tiny")
    (folder,) = place.runs.glob("sweeps/*/jobs")
    assert logs == f"kdhpc: jobs: 4, logs: {folder}"


def test_train_sweep_with_a_job_that_fails_names_it_and_finishes_the_others(place):
    """That a run is trained elsewhere already is found out by its job only."""
    with hold_lock(RunPaths.of("tiny-resnet14-independent1", 0).lock):
        done = place.run(
            *("train", "--graph", "independent", "--nodes", "1", "--launcher", "submitit_local", *TINY),
            "network.name=resnet8,resnet14",
        )
    assert done.returncode == 1
    assert "1 of 2 trainings failed, the first: independent on tiny with resnet14, seed 0: " in done.stderr
    assert "being trained by another process" in done.stderr
    assert done.stderr.count("\n") == 2
    (line,) = done.stdout.splitlines()
    assert line.startswith("tiny-resnet8-independent1 seed 0: ensemble ")


def test_train_sweep_with_a_job_that_is_killed_says_so(place):
    sweep = place.start("train", "--graph", "dml", "--nodes", "2", "--launcher", "submitit_local", *LONG)
    run = place.runs / "train" / "tiny-resnet8-dml2" / "seed0"
    wait_for(run / "checkpoint.pt")
    (pid,) = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"submitit.core._submit" in _read(path) and str(place.runs).encode() in _read(path)
    ]
    os.kill(pid, signal.SIGKILL)
    _, err = sweep.communicate(timeout=600)
    assert sweep.returncode == 1
    assert err.count("\n") == 2
    assert "logs:" in err
    again = place.run("train", "--graph", "dml", "--nodes", "2", *LONG)
    assert again.returncode == 0
    assert "goes on after epoch" in again.stderr


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_train_whose_output_nobody_reads_is_checkpointed(place):
    command = ("train", "--graph", "dml", "--nodes", "2", *TINY, "training.epochs=24", "run.name=unread")
    unread = place.start(*command)
    assert unread.stderr is not None
    while not unread.stderr.readline().startswith("epoch 1/"):
        pass
    unread.stderr.close()
    assert unread.wait(timeout=600) == 141
    assert (place.runs / "train" / "unread" / "seed0" / "checkpoint.pt").exists()
    done = place.run(*command)
    assert done.returncode == 0, done.stderr
    assert "goes on after epoch" in done.stderr


def test_train_in_a_terminal_shows_how_far_it_is_within_its_width(place):
    argv = [sys.executable, "-m", "kdhpc.cli.main", "train", "--graph", "independent", "--nodes", "2", *TINY]
    argv += ["training.epochs=24"]  # The line is drawn four times a second: a few epochs may pass between two.
    environment = {**os.environ, **place.environment, "TERM": "xterm", "NO_COLOR": "1"}
    environment.pop("COLUMNS", None)
    code, got = in_terminal(argv, columns=40, environment=environment)
    assert code == 0, got
    pieces = [piece.rstrip() for piece in re.split(r"[\r\n]+|\x1b\[\d*[A-Z]", got) if piece.strip()]
    assert pieces[0].startswith("starting, ")
    assert any(re.match(r"seed 0, epoch \d+/24, step \d", piece) for piece in pieces)
    *epochs, result = Screen(got).shown
    done = [line.partition(":")[0] for line in epochs]
    assert done == [f"epoch {epoch}/24" for epoch in range(1, 25)], "nothing else is left"
    assert result.startswith("tiny-resnet8-independent2 seed 0: ensemble ")
    assert max(len(piece) for piece in pieces if not piece.startswith("tiny-")) < 40
