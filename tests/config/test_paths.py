import inspect
from pathlib import Path

import pytest

from kdhpc.config import paths


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
