"""What the line of progress says of trainings, and an epoch's own line."""

import sys
import time
from types import SimpleNamespace

import pytest

from kdhpc.cli.sweep_progress import SweepProgress
from kdhpc.cli.training_progress import TrainingProgress, epoch_line
from kdhpc.final.final import Position
from kdhpc.live_line import fitted
from kdhpc.training.loop import EpochReport
from tests.screens import Screen
from tests.test_live_line import Window


def _report(epoch: int, nodes: int = 2) -> EpochReport:
    return EpochReport(
        epoch=epoch,
        step=epoch * 10,
        rung=True,
        train_losses=(1.5,) * nodes,
        node_accuracies=(33.25,) * nodes,
        ensemble_accuracy=41.5,
        seconds=12.34,
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.s)
    return now


def test_progress_says_what_is_done_before_there_are_steps(clock: SimpleNamespace) -> None:
    progress = TrainingProgress()
    progress.stage("loading torch")
    clock.s += 7
    assert fitted(progress._shown().parts, 80) == "loading torch, 7 s"
    progress.next_training(3, number=2, total=5, left=3)
    assert fitted(progress._shown().parts, 80) == "2 of 5, seed 3, loading, 0 s"
    progress.begun(Position(step=0, steps_per_epoch=10, epochs=4))
    assert fitted(progress._shown().parts, 80) == "2 of 5, seed 3, first step: preparing, compiling, 0 s"


def test_progress_says_step_time_to_go_and_accuracy_of_the_epoch_before(clock: SimpleNamespace) -> None:
    progress = TrainingProgress()
    progress.next_training(3, number=2, total=5, left=3)
    progress.begun(Position(step=0, steps_per_epoch=10, epochs=4))
    for _ in range(9):
        progress.stepped()
        clock.s += 1
    said = "2 of 5, seed 3, epoch 1/4, step 9/10, 35 s to go, 3 min for all"
    assert fitted(progress._shown().parts, 120) == said
    progress.stepped()
    assert "epoch 1/4, scoring" in fitted(progress._shown().parts, 120)
    clock.s += 5
    progress.report(_report(1))
    progress.stepped()
    shown = progress._shown()
    assert "epoch 2/4, step 1/10" in fitted(shown.parts, 120)
    assert fitted(shown.parts, 120).endswith("ensemble 41.50 %")
    assert shown.fraction == pytest.approx(11 / 40)
    assert fitted(shown.parts, 39) == "epoch 2/4, step 1/10, 41 s to go"


def test_progress_of_a_training_that_goes_on_counts_from_its_checkpoint(clock: SimpleNamespace) -> None:
    progress = TrainingProgress()
    progress.begun(Position(step=25, steps_per_epoch=10, epochs=4))
    for _ in range(3):
        progress.stepped()
        clock.s += 2
    assert fitted(progress._shown().parts, 80).startswith("epoch 3/4, step 8/10, 36 s to go")


@pytest.mark.parametrize(
    ("nodes", "width", "line"),
    [
        (2, None, "epoch 2/4: loss 1.500 1.500, ensemble 41.50 %, nodes 33.25 33.25 % (12.3 s)"),
        (2, 79, "epoch 2/4: loss 1.500 1.500, ensemble 41.50 %, nodes 33.25 33.25 % (12.3 s)"),
        (9, 79, "epoch 2/4: loss 1.500, ensemble 41.50 %, 12.3 s"),
        (2, 39, "epoch 2/4: loss 1.500, ensemble 41.50 %"),
        (2, 30, "epoch 2/4: loss 1.500"),
    ],
)
def test_epoch_line_is_cut_for_a_narrow_terminal_only(nodes: int, width: int | None, line: str) -> None:
    assert epoch_line(_report(2, nodes), 4, width) == line


def test_progress_on_a_terminal_leaves_the_lines_of_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    window = Window()
    monkeypatch.setattr(sys, "stderr", window)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "40"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    with TrainingProgress() as progress:
        progress.next_training(0)
        progress.begun(Position(step=0, steps_per_epoch=1, epochs=2))
        for epoch in (1, 2):
            progress.stepped()
            progress.report(_report(epoch))
    screen = Screen(window.getvalue())
    assert screen.shown == [f"epoch {epoch}/2: loss 1.500, ensemble 41.50 %" for epoch in (1, 2)]
    assert screen.widest < 40


def test_sweep_progress_counts_trainings_and_epochs(tmp_path, clock: SimpleNamespace) -> None:
    runs = []
    for seed in range(3):
        root = tmp_path / f"seed{seed}"
        root.mkdir()
        paths = SimpleNamespace(result=root / "result.json", metrics=root / "metrics.jsonl")
        runs.append(SimpleNamespace(paths=paths, config=SimpleNamespace(training=SimpleNamespace(epochs=10))))
    progress = SweepProgress(runs)
    assert fitted(progress._shown().parts, 80) == "0/3 trainings, 0/30 epochs, 0 s so far"
    runs[0].paths.result.write_text("{}")
    runs[1].paths.metrics.write_text("{}\n" * 5)
    clock.s += 30
    assert fitted(progress._shown().parts, 80) == "1/3 trainings, 15/30 epochs, about 30 s to go"
