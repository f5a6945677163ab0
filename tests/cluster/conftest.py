"""A real PostgreSQL, and a tiny data set: searches run here as users run them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workspace import Workspace, make_workspace


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    workspace = make_workspace(tmp_path_factory.mktemp("search"))
    started = workspace.run("db", "start")
    assert started.returncode == 0, started.stderr
    yield workspace
    workspace.close()


_HEADER = "echo 'kdhpc|JOBID|and|so|on'"
_MARKED = "sed 's/^/kdhpc|/' <<< \"$shown\""


class FakeSlurm:
    """Slurm's commands, each a line of bash: for what is made of their answers, and of none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for program in ("squeue", "sbatch", "srun", "scancel", "scontrol"):
            self.answer(program, "exit 1")

    def answer(self, program: str, script: str, *, decorated: bool = False) -> None:
        """What a command does from now on; it may use ``$N``, the number of this call.

        What squeue prints are rows without the mark that was asked for; ``decorated``: it prints that itself.
        """
        path = self.folder / program
        counted = f'N=$(($(cat {path}.n 2>/dev/null || echo 0) + 1)); echo $N > {path}.n; echo "$*" >> {path}.calls'
        if program == "squeue" and not decorated:
            script = f'rows() {{ {script}\n}}; shown=$(rows "$@") || exit; {_HEADER}; [ -z "$shown" ] || {_MARKED}'
        path.write_text(f"#!/bin/bash\n{counted}\n{script}\n")
        path.chmod(0o755)

    def queue(self, *jobs: str) -> None:
        """``7_0 RUNNING`` and such, in the queue from now on."""
        rows = (job.split() for job in jobs)
        lines = [f"{job}|{job.partition('_')[0]}|{state}|1:00:00|node1|None|/x.sh" for job, state in rows]
        self.answer("squeue", "\n".join(["true", *(f"echo '{line}'" for line in lines)]))

    def calls(self, program: str) -> list[str]:
        """Arguments of each call so far."""
        path = self.folder / f"{program}.calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith(("SLURM", "SQUEUE_", "KDHPC_SLURM"))]:
        monkeypatch.delenv(name)
    return FakeSlurm(folder)
