"""The scripts for sbatch, run as Slurm runs them: in the folder that they were submitted from."""

import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPTS = Path(__file__).parents[2] / "slurm"
# What `module load python` does.
_MODULE = 'PATH="$PWD/module:$PATH"'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One in which a module's python, without kdhpc, comes first."""
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "site.sh").write_text(f"{_MODULE}\n")
    (tmp_path / "module").mkdir()
    python = tmp_path / "module" / "python"
    python.write_text("#!/bin/bash\necho 'the python of a module'; exit 9\n")
    python.chmod(0o755)
    return tmp_path


def run(script: str, checkout: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", str(_SCRIPTS / script), "--help"],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(checkout), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("script", "command"), [("search_array.sh", "launch"), ("worker_array.sh", "worker"), ("reproduce.sh", "reproduce")]
)
def test_script_runs_the_python_of_the_checkout_whatever_modules_put_first(
    script: str, command: str, checkout: Path
) -> None:
    done = run(script, checkout)
    assert done.returncode == 127
    assert f"{checkout}/.venv/bin/kdhpc: No such file or directory" in done.stderr
    (checkout / ".venv").symlink_to(sys.prefix)
    for environment in ({}, {"VIRTUAL_ENV": "/of/the/shell/that/submitted"}):
        done = run(script, checkout, **environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"usage: kdhpc {command}")


@pytest.mark.parametrize("script", ["search_array.sh", "worker_array.sh", "reproduce.sh"])
def test_script_runs_the_python_of_the_environment_that_the_site_names(script: str, checkout: Path) -> None:
    with (checkout / "slurm" / "site.sh").open("a") as site:
        site.write(f"VIRTUAL_ENV={sys.prefix}\n")
    done = run(script, checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: kdhpc")
