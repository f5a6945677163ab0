"""``kdhpc.train`` that is interrupted: its folder is whole, and the same call ends with the same bits."""

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import kdhpc
from kdhpc.training.loop import EpochReport
from kdhpc.training.metrics import read_metrics
from tests.api.conftest import SETTINGS, make_images

_LEFT = ["config.yaml", "graph.json", "lock", "metrics.jsonl", "model.json", "settings.json"]
_SETTINGS = {**SETTINGS, "epochs": 2, "mode": "eager", "threads": 1}


class Fuse(nn.Sequential):
    """A network that does something at one of the forward passes of a step, counted over all nodes."""

    left = 0
    action: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.append(nn.Flatten()).append(nn.Linear(4, 2))

    def forward(self, images: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():  # It is tried before, without gradients.
            Fuse.left -= 1
            if Fuse.left == 0:
                Fuse.action()
        return super().forward(images)


def train(name: str, *, seed: int = 0, on_epoch: Callable[[object], None] | None = None) -> kdhpc.Run:
    settings = {**_SETTINGS, "network": Fuse, "name": name, "seed": seed}
    del settings["crops"]
    return kdhpc.train(
        kdhpc.dml(2), dataset=make_images(64), test=make_images(32, seed=1), on_epoch=on_epoch, **settings
    )


def set_fuse(action: Callable[[], None], *, step: int) -> None:
    """Act at a step, when its first network is called."""
    Fuse.action, Fuse.left = staticmethod(action), 2 * step - 1


def same_as_whole(run: kdhpc.Run) -> bool:
    whole = train("whole")
    files = [sorted(one.folder.glob("*.safetensors")) for one in (run, whole)]
    assert [len(one) for one in files] == [2, 2]
    pairs = [(load_file(mine), load_file(other)) for mine, other in zip(*files, strict=True)]
    epochs = [[one.train_losses for one in read_metrics(run.folder / "metrics.jsonl")] for run in (run, whole)]
    return epochs[0] == epochs[1] and all(torch.equal(mine[key], other[key]) for mine, other in pairs for key in other)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_the_middle_of_an_epoch_checkpoints_and_the_same_call_goes_on(
    folder: Path, number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(number)
    set_fuse(lambda: os.kill(os.getpid(), number), step=6)
    with pytest.raises(KeyboardInterrupt, match="the same call goes on from its checkpoint"):
        train("pieces")
    assert signal.getsignal(number) is before
    assert names(folder / "runs/train/pieces/seed0") == sorted([*_LEFT, "checkpoint.pt"])
    with caplog.at_level(logging.INFO):
        run = train("pieces")
    assert "pieces, seed 0 goes on after epoch 1, step 6" in caplog.text
    assert same_as_whole(run)


def test_exception_in_the_middle_of_a_step_leaves_a_folder_that_the_same_call_goes_on_in(folder: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    set_fuse(interrupt, step=6)
    with pytest.raises(KeyboardInterrupt):
        train("pieces")
    assert names(folder / "runs/train/pieces/seed0") == _LEFT
    assert same_as_whole(train("pieces"))


def test_interrupt_at_the_very_end_is_not_swallowed_and_the_run_is_done(folder: Path) -> None:
    """Whoever trains one seed after the other in a loop gets out of the loop."""

    def last(report: EpochReport) -> None:
        if report.epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="the training is done"):
        train("pieces", on_epoch=last)
    assert same_as_whole(train("pieces", on_epoch=lambda report: pytest.fail("it was trained again")))
