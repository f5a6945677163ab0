"""Every command of docs/tutorial.md runs, in its order, on real images: folders of PNG files of Fashion-MNIST."""

import gzip
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

_PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
_PLACES = (Path("/usr/share/datasets/fashion-mnist"), _PAGE.parents[1] / "data/sources/FashionMNIST/raw")
_CLASSES = {1: "pants", 7: "shoes", 8: "bag"}
_EACH = 20
_SMALL = {
    "search": ["--workers", "1", "study.trials=2", "study.baselines=[]", "training.epochs=1", "training.milestones=[]"],
    "train": ["training.epochs=1", "training.milestones=[]"],
}
"""What is given last, and so counts: the smallest search and the shortest trainings."""


def commands() -> list[list[str]]:
    """The words of each command of the page, in its order."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", _PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if words]


def _published() -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (N, 28, 28), and labels of Fashion-MNIST's test half."""
    place = next((place for place in _PLACES if (place / "t10k-images-idx3-ubyte.gz").exists()), None)
    if place is None:
        said = "Fashion-MNIST is not here: tools/fetch_fashion_mnist gets it"
        assert os.environ.get("KDHPC_REQUIRE_IMAGES") != "1", said
        pytest.skip(said)
    images, labels = (
        np.frombuffer(gzip.decompress((place / f"t10k-{name}.gz").read_bytes()), np.uint8)
        for name in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    return images[16:].reshape(-1, 28, 28), labels[8:]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with ``clothes/CLASS/*.png``, and with three images in ``new``."""
    pixels, labels = _published()
    (tmp_path / "new").mkdir()
    for label, name in _CLASSES.items():
        (tmp_path / "clothes" / name).mkdir(parents=True)
        first, *others = np.flatnonzero(labels == label)[: _EACH + 1]
        Image.fromarray(pixels[first]).save(tmp_path / "new" / f"{name}.png")
        for index in others:
            Image.fromarray(pixels[index]).save(tmp_path / "clothes" / name / f"{index}.png")
    return tmp_path


def _small(words: list[str]) -> list[str]:
    """The command at its smallest."""
    return [*words, *_SMALL.get(words[1], [])]


@pytest.mark.timeout(1200)
def test_every_command_of_the_tutorial_runs_in_its_order(photographs: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KDHPC_")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(_PAGE.parents[1])}

    def run(words: list[str]) -> "subprocess.CompletedProcess[str]":
        assert words[0] == "kdhpc", f"only commands of kdhpc's are run here, not {shlex.join(words)}"
        return subprocess.run(
            [sys.executable, "-m", "kdhpc.cli.main", *words[1:]],
            cwd=photographs,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    try:
        for words in commands():
            done = run(_small(words))
            assert done.returncode == 0, f"{shlex.join(_small(words))}: {done.stdout}{done.stderr}"
    finally:
        run(["kdhpc", "db", "stop"])
    answer = (photographs / "new.csv").read_text(encoding="utf-8").splitlines()
    assert {line.split(",")[0] for line in answer[1:]} == {f"new/{name}.png" for name in _CLASSES.values()}
    assert (photographs / "pictures" / "search" / "index.html").is_file()
    assert (photographs / "clothes-bundle" / "use.py").is_file()
    for picture in ("attention.png", "graph.png", "1-bag.png"):
        with Image.open(photographs / "pictures" / picture) as drawn:
            assert drawn.format == "PNG"
