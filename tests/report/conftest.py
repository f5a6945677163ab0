"""Finished runs of tiny networks, trained once."""

import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from kdhpc.config.compose import compose_train
from kdhpc.final.final import train_final
from tests.final.conftest import TINY, Place
from tests.final.conftest import place as place
from tests.final.conftest import shared as shared
from tests.final.conftest import threads as threads

RUNS = (
    ("run.graph=independent", "run.num_nodes=2", "run.seed=0"),
    ("run.graph=independent", "run.num_nodes=2", "run.seed=1"),
    ("run.graph=independent", "run.num_nodes=1", "run.seed=0"),
    ("run.graph=dml", "run.num_nodes=2", "run.name=normalised", "dataset.mean=[0.4,0.5,0.6]", "dataset.std=[0.2]"),
    ("run.graph=independent", "run.num_nodes=2", "run.name=branch", "network.name=abn_resnet8"),
    ("run.graph=independent", "run.num_nodes=1", "run.split=search"),
    ("run.graph=one", "run.num_nodes=2"),
)
INDEPENDENT = "runs/train/tiny-resnet8-independent2"


@pytest.fixture(scope="session")
def trained(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``runs``, for tests to copy."""
    place = Place(tmp_path_factory.mktemp("trained"), shared)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in place.environment.items():
            patch.setenv(name, value)
        for overrides in RUNS:
            config = compose_train([*TINY, "training.evaluate=rungs", *overrides])
            assert train_final(config, show=lambda _: None, should_stop=lambda: False) is not None
        student = compose_train(
            [*TINY, "run.graph=student", f"run.teacher={place.runs}/train/tiny-resnet8-independent2/seed0"]
        )
        assert train_final(student, show=lambda _: None, should_stop=lambda: False) is not None
    return place.runs


@pytest.fixture
def finished(place: Place, trained: Path) -> Place:
    """A place with those runs, in which commands are given."""
    shutil.copytree(trained, place.runs)
    return place


def svg_texts(path: Path) -> list[str]:
    """Every text of a drawing."""
    tree = ElementTree.parse(path)
    return ["".join(element.itertext()).strip() for element in tree.iter("{http://www.w3.org/2000/svg}text")]
