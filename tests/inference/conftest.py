"""A run that is done, its test images as files, and the command."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

import kdhpc
from kdhpc.cli.main import main
from tests.api.conftest import done as done
from tests.api.conftest import folder as folder
from tests.api.conftest import make_images
from tests.api.conftest import threads as threads

IMAGES, LABELS = make_images(32, seed=1)
"""Those that ``done`` was scored on."""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What the command did."""

    code: int
    out: str
    err: str
    json: dict


@pytest.fixture
def pictures(folder: Path) -> Path:
    """The test images as PNG files, in a folder for each class. Their order by paths is another than by number."""
    for index, (image, label) in enumerate(zip(IMAGES, LABELS.tolist(), strict=True)):
        path = folder / "pictures" / ("dark", "light")[label] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return folder / "pictures"


@pytest.fixture
def predict(done: kdhpc.Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Predicted]:
    """``kdhpc predict`` with the run, in this process; also what it writes as JSON."""

    def predict(*words: object, run: object = done.folder) -> Predicted:
        file = folder / "predicted.json"
        capsys.readouterr()
        code = main(["predict", str(run), *map(str, words), "--device", "cpu", "--json", str(file)])
        out, err = capsys.readouterr()
        return Predicted(code=code, out=out, err=err, json=json.loads(file.read_bytes()) if file.exists() else {})

    return predict
