"""The recipe as tools/check_apptainer reads it; it runs the recipe for a quarter of an hour, and is not run here."""

import importlib.util
import subprocess
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    loader = SourceFileLoader("check_apptainer", str(_ROOT / "tools" / "check_apptainer"))
    spec = importlib.util.spec_from_loader("check_apptainer", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_recipe_brings_all_that_a_wheel_is_made_of(tool: ModuleType) -> None:
    recipe = tool.sections(tool.RECIPE.read_text(encoding="utf-8"))
    assert list(recipe) == ["header", "files", "post", "environment", "runscript", "test"]
    assert tool.release(recipe["header"]) == "bookworm"
    sources = {source for source, _ in tool.copies(recipe["files"])}
    assert all((_ROOT / source).exists() for source in sources)
    assert {"bin", "configs", "kdhpc", "slurm", "pyproject.toml", "README.md", "constraints.txt"} <= sources
    for section in ("post", "test", "runscript", "environment"):
        subprocess.run(["sh", "-n"], input=recipe[section], encoding="utf-8", check=True)


def test_what_is_lent_is_mounted_for_one_command_and_cannot_be_written(tool: ModuleType, tmp_path: Path) -> None:
    command = tool.inside(tmp_path / "a b", [Path("/opt/wheels")], "/tmp/post")
    assert command[:5] == ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    assert f"mount -o bind,ro /opt/wheels '{tmp_path}/a b/opt/wheels'" in command[-1]


def test_environment_inside_has_pips_settings_and_nothing_else(tool: ModuleType, monkeypatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://example.org")
    monkeypatch.setenv("MY_TOKEN", "secret")
    given = tool.environment()
    assert given["PIP_INDEX_URL"] == "https://example.org"
    assert "MY_TOKEN" not in given
