"""What made a result: the code's commit, versions, the GPU's driver. It is written down with results and studies.

Two repositories may matter: the checkout that kdhpc runs from, if it runs from one, and the one that the working folder
is in, with a user's configs and plug-ins. Of each, the commit is recorded, with ``-dirty`` behind it if a file that git
knows was changed since. Nothing else of them is: no address, which may hold a token, no branch; and nothing of the
environment. Where git is absent, slow, or refuses, the commit is left out.
"""

import contextlib
import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kdhpc import __version__

_GIT_S = 3.0
"""Longest time to wait for git, in seconds: a repository may be huge, or on a disk that is away."""
_SMI_S = 10.0
_KILLED_S = 0.5
_COMMIT = re.compile(r"# branch\.oid ([0-9a-f]{40,64})")
_DRIVER = re.compile(r"\d+\.\d+(\.\d+)*")
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_CHECKOUT = Path(__file__).resolve().parents[1]
# It locks and writes nothing, runs nothing that the repository names, and fetches nothing. `git describe --dirty` would
# lock the index, and many workers at once the user's own git out.
_GIT = ("git", "--no-optional-locks", "-c", "core.fsmonitor=false")
_STATUS = (
    *("status", "--porcelain=v2", "--branch", "--no-ahead-behind", "--no-renames"),
    *("--untracked-files=no", "--ignore-submodules=dirty"),
)


def code_versions() -> dict[str, str]:
    """Versions of kdhpc, Python and torch, and the commits, as they were when this process first asked.

    Returns:
        ``kdhpc``, ``python``, ``torch``, ``torchvision``, as far as they are installed; ``kdhpc_commit`` if kdhpc runs
        from a checkout; ``folder_commit`` if the working folder is in another repository.
    """
    return dict(_code_versions())


def library_versions() -> dict[str, str]:
    """Of the libraries that networks may come from, and that this process has imported."""
    return {name: found for name in ("timm",) if name in sys.modules and (found := package_version(name)) is not None}


def package_version(name: str) -> str | None:
    """Of an installed package; None: it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@functools.cache
def _code_versions() -> Mapping[str, str]:
    # What is above an installed package may be a repository, too, and is not kdhpc's.
    is_checkout = (_CHECKOUT / ".git").exists() and (_CHECKOUT / "pyproject.toml").is_file()
    try:
        folder = Path.cwd().resolve()
    except OSError:  # Somebody has removed it.
        folder = _CHECKOUT
    found = {
        "kdhpc": __version__,
        "python": platform.python_version(),
        "torch": package_version("torch"),
        "torchvision": package_version("torchvision"),
        "kdhpc_commit": commit(_CHECKOUT) if is_checkout else None,
        "folder_commit": None if folder.is_relative_to(_CHECKOUT) else commit(folder),
    }
    return {name: text for name, text in found.items() if text is not None}


def commit(folder: Path) -> str | None:
    """The commit of the repository that a folder is in; None: it is in none, or git does not say in time.

    Returns:
        All hexadecimal digits, and ``-dirty`` if a file that git knows has changed. Files that it does not know do not
        count: to look for them may take minutes.
    """
    # Variables of a git that has started this process, as for a hook, would name another repository.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    lines = (_output([*_GIT, "-C", str(folder), *_STATUS], _GIT_S, environment) or "").splitlines()
    known = next((match[1] for line in lines if (match := _COMMIT.fullmatch(line))), None)
    if known is None:
        return None
    return f"{known}-dirty" if any(not line.startswith("#") for line in lines) else known


def driver_version() -> str | None:
    """Of NVIDIA's driver, as ``580.82.07``; None: there is none, or it does not say."""
    with contextlib.suppress(OSError):
        lines = _DRIVER_FILE.read_text(encoding="utf-8", errors="replace").splitlines()
        if lines and (found := _DRIVER.search(lines[0])):
            return found[0]
    said = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], _SMI_S, os.environ)
    found = _DRIVER.match(said or "")
    return found and found[0]


def _output(command: Sequence[str], timeout_s: float, environment: Mapping[str, str]) -> str | None:
    """What a program prints; None: it is not here, failed, or took too long. It is never waited for longer."""
    try:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return None
    assert process.stdout is not None
    try:
        out, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        # One that waits for a disk does not even end by that.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILLED_S)
        process.stdout.close()
        return None
    return out.decode(errors="replace").strip() if process.returncode == 0 else None
