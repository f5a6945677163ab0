"""Every example runs: docstrings, docs/python.md and examples/. Searches share one server."""

import doctest
import importlib
import re
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import kdhpc
from kdhpc.study.storage import Storage
from tests.api.conftest import make_images

_ROOT = Path(__file__).parents[2]
_MODULES = ("kdhpc", "kdhpc.api.graphs", "kdhpc.api.training", "kdhpc.api.ensemble")
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", _MODULES)
def test_docstrings_say_what_is_so(folder: Path, name: str) -> None:
    _check_docstrings(name, {})


def test_page_about_python_runs_and_a_study_goes_on(
    storage: Storage,
    server_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _settle(monkeypatch, server_folder, tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in _BLOCK.findall((_ROOT / "docs" / "python.md").read_text()):
        exec(compile(block, "docs/python.md", "exec"), names)
    assert "did you mean 'epochs'?" in capsys.readouterr().out
    # The same study, which is done.
    _check_docstrings("kdhpc.api.searching", names)
    study = names["study"]
    assert isinstance(study, kdhpc.Study)
    assert [trial["state"] for trial in study.trials] == ["complete"] * 2
    assert [trial["value"] for trial in study.trials] == sorted((t["value"] for t in study.trials), reverse=True)
    assert study.trials[0]["value"] == study.best_value
    assert study.trials[0]["graph_key"] == study.best.key
    assert kdhpc.load_graph("best.json").key == study.best.key
    goes_on = runpy.run_path(str(_ROOT / "examples" / "continue_a_study.py"), run_name="example")["main"]
    table = goes_on("mine", 3)
    assert isinstance(table, pd.DataFrame)
    assert study.status.target == 3
    assert table["state"].tolist() == ["complete"] * 3
    assert "best: " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train_a_graph", "own_network"])
def test_example_runs(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    runpy.run_path(str(_ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("ensemble ")


def test_example_uses_an_ensemble(
    done: kdhpc.Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, image in enumerate(make_images(2)[0]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    monkeypatch.setattr(sys, "argv", ["use", str(done.folder), "0.png", "1.png"])
    runpy.run_path(str(_ROOT / "examples" / "use_an_ensemble.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["0.png", "1.png"]
    with Image.open("1.attention.png") as drawn:
        assert drawn.size == (4, 4)


def test_every_example_is_run_here() -> None:
    text = Path(__file__).read_text() + (_ROOT / "tests" / "test_extending.py").read_text()
    assert all(path.stem in text for path in (_ROOT / "examples").glob("*.py"))


def _check_docstrings(name: str, names: dict[str, object]) -> None:
    module = importlib.import_module(name)
    found = doctest.testmod(module, extraglobs={key: names[key] for key in ("images", "labels") if key in names})
    assert found.attempted > 0
    assert found.failed == 0


def _settle(monkeypatch: pytest.MonkeyPatch, server_folder: Path, folder: Path) -> None:
    """Work in a folder, with the tests' server; workers find the code that is tested."""
    for name in ("KDHPC_CONFIG_DIR", "KDHPC_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KDHPC_DATA", str(folder / "data"))
    monkeypatch.setenv("KDHPC_RUNS", str(server_folder.parent))
    monkeypatch.setenv("PYTHONPATH", str(_ROOT))
    monkeypatch.chdir(folder)
