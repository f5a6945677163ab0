"""A folder to work in, images in memory, and a run that is done."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import kdhpc

SETTINGS = {"network": "resnet8", "crops": [3], "epochs": 1, "batch_size": 16, "learning_rate": 0.05, "device": "cpu"}


def make_images(num: int, *, channels: int = 3, side: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two classes that differ in brightness: anything that learns tells them apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 2
    noise = torch.randn(num, channels, side, side, generator=generator)
    return (40 * noise + 70 + 110 * labels[:, None, None, None]).clamp(0, 255).byte(), labels


def settle(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Work in a folder, as a user who has set nothing."""
    for name in ("KDHPC_DATA", "KDHPC_CONFIG_DIR", "KDHPC_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KDHPC_RUNS", str(folder / "runs"))
    monkeypatch.chdir(folder)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settle(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Alembic tells at INFO what it loads."""
    logging.getLogger("alembic").setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> "kdhpc.Run":
    """A run of two networks, two epochs."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        settle(monkeypatch, tmp_path_factory.mktemp("done"))
        return kdhpc.train(
            kdhpc.dml(2),
            dataset=make_images(64),
            test=make_images(32, seed=1),
            classes=["dark", "light"],
            **{**SETTINGS, "epochs": 2},
        )
