"""The simulation of a search: who is pruned, and what is counted."""

import argparse

import pytest

from kdhpc.training.schedule import is_rung
from tools.benchmarks import scale
from tools.benchmarks.report import Report


def report(*argv: str) -> Report:
    parser = argparse.ArgumentParser()
    scale.add_arguments(parser)
    return scale.run(parser.parse_args(argv))


def row(*argv: str) -> dict[str, float]:
    (found,) = report(*argv).rows
    return {name: float(value) for name, value in found.items() if value is not None}


def test_half_of_the_trials_end_at_each_rung() -> None:
    # Of so many, half are left at 2, a quarter at 4, ... and a sixteenth at the last epoch: 1 + 1/2 + 2/4 + 4/8 + 8/16.
    assert sum(is_rung(epoch, 16) for epoch in range(1, 17)) == 5
    found = row("--workers", "10", "--trials", "4000", "--epochs", "16")

    assert found["complete"] == pytest.approx(250, rel=0.2)
    assert found["epochs a trial"] == pytest.approx(3.0, rel=0.05)


def test_gpu_hours_are_those_of_epochs_and_scores() -> None:
    # One epoch of 2 x 100 images at 100 a second, and a score of as many at 300.
    found = row(
        *("--workers", "1", "--trials", "36000", "--epochs", "1", "--images", "100", "--held-out", "100"), "--speed=100"
    )

    assert (found["GPU hours"], found["wall hours"], found["complete"]) == (27, 26.7, 36000)


def test_fewer_checkpoints_are_written_where_rungs_are_close() -> None:
    options = ("--workers", "100", "--trials", "500")
    spaced, each = row(*options), row(*options, "--rung-checkpoint-s", "0")

    assert 0 < spaced["checkpoints, MB/s"] < each["checkpoints, MB/s"] / 3


def test_more_workers_than_trials_is_a_search_that_begins_all_at_once() -> None:
    found = row("--workers", "50", "--trials", "20", "--epochs", "8")

    assert found["workers"] == 50
    assert found["complete"] >= 1
