"""The import contract in pyproject.toml: kept, and able to break."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]

_CYCLES = "No two files import each other"


def _lint(folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "added", "contract"),
    [
        ("graph/spec.py", "import kdhpc.config.schema", "Imports go down the street"),
        ("cli/status.py", "import kdhpc.api.graphs", "Imports go down the street"),
        ("config/paths.py", "import torch", "never wait for torch"),
        ("networks/names.py", "import kdhpc.networks.build", "never wait for torch"),
        ("searching/jobs.py", "import sqlalchemy", "Only the study and the server know SQL"),
        ("study/slots.py", "import optuna", "Only the study and the server know SQL"),
        ("cli/search.py", "from omegaconf import OmegaConf", "Only config knows Hydra"),
        ("cli/status.py", "import submitit", "Only cluster and searching know submitit"),
        ("final/result.py", "import kdhpc.report.accuracy", "Imports go down the street"),
        ("report/draw_attention.py", "import torch", "never wait for torch"),
        ("config/paths.py", "import kdhpc.config.compose", _CYCLES),
        ("report/pairs.py", "import matplotlib", "Only drawing knows Matplotlib"),
        ("searching/export.py", "import matplotlib", "Only drawing knows Matplotlib"),
    ],
)
def test_contract_breaks_on_an_import_that_does_not_belong(
    tmp_path: Path, module: str, added: str, contract: str
) -> None:
    shutil.copytree(_ROOT / "kdhpc", tmp_path / "kdhpc")
    shutil.copy(_ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "kdhpc" / module
    path.write_text(f"{path.read_text()}\n{added}\n")
    done = _lint(tmp_path)
    broken = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    assert done.returncode == 1, done.stderr
    # An import that goes up the street often closes a circle, too.
    others = [line for line in broken if _CYCLES not in line or contract == _CYCLES]
    assert len(others) == 1
    assert contract in others[0]
