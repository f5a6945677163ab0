"""Finished runs of tiny networks, trained once, and a place in which they are exported."""

import shutil
from pathlib import Path

import pytest
import torch

import kdhpc
from kdhpc.bundle.export import Bundle, export_run
from kdhpc.config.compose import compose_train
from kdhpc.final.final import train_final
from kdhpc.final.finished import open_finished
from tests.final.conftest import Place
from tests.final.conftest import place as place
from tests.final.conftest import shared as shared
from tests.final.conftest import threads as threads

_TINY = (
    "dataset=tiny",
    "dataset.subset=16",
    "training=tiny",
    "training.epochs=1",
    "device.threads=1",
    "training.evaluate=last",
)
_RUNS = {
    "mixed": ("run.graph=dml", "run.num_nodes=2", "network=[abn_resnet8,resnet8]", "network.crops=[3]"),
    "branched": ("run.graph=one", "run.num_nodes=2", "network=tiny"),
    "rotated": ("run.graph=sla", "network=tiny"),
    "theirs": (
        *("run.graph=independent", "run.num_nodes=2", "network=[timm/test_resnet,timm/test_vit]"),
        *("dataset.mean=[0.4,0.5,0.6]", "dataset.std=[0.2]"),
    ),
}


@pytest.fixture(scope="session")
def trained(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``runs``, for tests to copy."""
    place = Place(tmp_path_factory.mktemp("trained"), shared)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in place.environment.items():
            patch.setenv(name, value)
        for name, overrides in _RUNS.items():
            config = compose_train([*_TINY, *overrides, f"run.name={name}"])
            assert train_final(config, show=lambda _: None, should_stop=lambda: False) is not None
    return place.runs


@pytest.fixture
def runs(place: Place, trained: Path) -> Path:
    """``runs/train`` of a place, which is the working folder."""
    shutil.copytree(trained, place.runs)
    return place.runs / "train"


def export(run: Path, name: str, out: Path, *, node: int | None = None, num_images: int = 5) -> Bundle:
    return export_run(open_finished(run), name, out, node=node, num_images=num_images)


def expected(run: Path, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the Python API says of preprocessed images: logits (N, M, C) and probabilities (N, C)."""
    ensemble = kdhpc.load(run, device="cpu")
    with torch.no_grad():
        probabilities = ensemble(images).softmax(dim=1)
        if hasattr(ensemble.nodes[0], "gate"):
            logits = ensemble.nodes[0](images).branch_logits_BNC
        else:
            logits = torch.stack([node(images).logits for node in ensemble.nodes])
    return logits.transpose(0, 1), probabilities
