import inspect
from pathlib import Path

import pytest

from kdhpc.config import paths
from kdhpc.errors import ConfigError


def test_every_folder_beside_the_studies_is_kept_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KDHPC_DATA", str(tmp_path / "data"))
    functions = [
        function
        for _, function in inspect.getmembers(paths, inspect.isfunction)
        if function.__module__ == paths.__name__
    ]
    found = [function(*("x" for _ in inspect.signature(function).parameters)) for function in functions]
    below = {path.relative_to(tmp_path / "runs").parts[0] for path in found if tmp_path / "runs" in path.parents}
    assert len(below) >= 4
    assert below <= set(paths.OWN_FOLDERS)


@pytest.mark.parametrize(
    "name", ["x/../../../E", "..", ".", "", ".hidden", "/E", "a\x1b[2Jb", "a\0b", "a\nb", "n" * 256]
)
def test_names_that_lead_elsewhere_are_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path / "runs"))
    for path_of in (paths.StudyPaths.of, paths.packed_dir, paths.sweep_dir, paths.report_dir):
        with pytest.raises(ConfigError, match="can be no folder in"):
            path_of(name)
    with pytest.raises(ConfigError, match="can be no folder in"):
        paths.RunPaths.of(name, 0)


@pytest.mark.parametrize("name", ["tiny-resnet8-student-of-single-seed0", "my graph", "Größe 2", "a..b", "-x"])
def test_names_that_people_give_are_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path / "runs"))
    assert paths.RunPaths.of(name, 3).root == tmp_path / "runs" / "train" / name / "seed3"
