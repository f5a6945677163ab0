"""A search among what may surround it: see also tests/test_interpreter.py."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.workspace import Workspace

_COMMAND = Path(__file__).parents[2] / "bin" / "kdhpc"


def test_search_and_export_whatever_surrounds_them(tmp_path: Path, workspace: Workspace) -> None:
    """Modules in the working folder, a notebook's terminal, and an encoding without letters, all at once."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    for name in ("queue.py", "profile.py", "socket.py", "numpy.py"):
        (cwd / name).write_text("raise SystemExit('a module of the working folder was imported')\n")
    environment = {
        **{name: value for name, value in workspace.environment.items() if name not in ("LANG", "LC_CTYPE")},
        "PYTHONPATH": f":{workspace.environment.get('PYTHONPATH', '')}:",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "POSIX",
    }

    def run(*argv: str) -> "subprocess.CompletedProcess[str]":
        # By its path, as the installed command does it.
        command = [sys.executable, _COMMAND, *argv]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", check=False)

    search = ("search", "--study", "surrounded", "study=tiny", "--trials", "1", "training.epochs=1", "--workers", "1")
    done = run(*search)
    if sys.version_info < (3, 11):
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        shutil.rmtree(cwd)
        cwd.mkdir()
        done = run(*search)
    assert done.returncode == 0, done.stderr
    exported = run("export-best", "--study", "surrounded")
    assert (exported.returncode, exported.stderr) == (0, "")
    assert [Path(line).suffix for line in exported.stdout.splitlines()] == [".json", ".svg", ".png"] * 2 + [".csv"]
