"""What a wheel brings along, and what it says of itself."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

_ROOT = Path(__file__).parents[2]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_package_alone_makes_a_project(tmp_path: Path) -> None:
    """Laid out as in a wheel: no checkout is beside it."""
    place = tmp_path / "site"
    shutil.copytree(_ROOT / "kdhpc", place / "kdhpc")
    for source, target in _PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].items():
        shutil.copytree(_ROOT / source, place / target)
    code = (
        "import sys; from kdhpc.cli.main import main; import kdhpc\n"
        f"assert kdhpc.__file__.startswith({str(place)!r})\n"
        "assert main(['init']) == 0; sys.exit(main(['search', '--study', 'mine', '--dry-run']))"
    )
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "here",
        env={"PYTHONPATH": str(place), "PATH": "/nowhere"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "name: fashion_mnist" in done.stdout
    assert (tmp_path / "here" / "slurm" / "search_array.sh").is_file()


def test_metadata_say_what_the_citation_says() -> None:
    cited = yaml.safe_load((_ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    metadata = _PROJECT["project"]
    assert metadata["keywords"] == cited["keywords"]
    assert [author["name"] for author in metadata["authors"]] == [author["name"] for author in cited["authors"]]


def test_classifiers_are_the_pythons_that_are_allowed() -> None:
    from packaging.specifiers import SpecifierSet

    allowed = SpecifierSet(_PROJECT["project"]["requires-python"])
    named = {word.rpartition(" ")[2] for word in _PROJECT["project"]["classifiers"] if ":: 3." in word}
    assert named == {f"3.{minor}" for minor in range(8, 20) if allowed.contains(f"3.{minor}")}


@pytest.mark.parametrize("extra", sorted(_PROJECT["project"]["optional-dependencies"]))
def test_every_extra_is_explained(extra: str) -> None:
    assert f"| `{extra}` |" in (_ROOT / "docs" / "install.md").read_text(encoding="utf-8")
