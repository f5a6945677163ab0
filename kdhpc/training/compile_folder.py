"""Where compiled programs lie: a folder that is this user's alone, since what lies there is executed.

Inductor, Triton and torch's C++ extensions load what they find in their folders, by default below the system's
temporary folder, under names that anybody can take first. So before anything is compiled, all of them are pointed to a
private folder: of this user, closed to all others, and below folders in which nobody else can exchange it. Without one,
nothing is compiled.
"""

import contextlib
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kdhpc.errors import StorageError

_LOG = logging.getLogger(__name__)
FOLDERS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
"""The environment variables that name the compilers' folders, and our names of these folders.

What is in them depends only on what is compiled.
"""
_EXTENSIONS = {"TORCH_EXTENSIONS_DIR": "extensions"}
_COMMON = "common"
_WHOLE_MACHINE = ["0", "0", "4294967295"]


def keep_private() -> str | None:
    """Let all that compiles in this process, and in its children, load only from private folders.

    Folders that the user has named are taken as they are, if they are private. All others, and temporary files, go to
    :func:`private_folder`: also torch's precompiled C++ headers, which follow the temporary folder alone.

    Returns:
        None: they do. Otherwise why that is not possible, and what to do; then nothing may be compiled.
    """
    try:
        variables = FOLDERS | _EXTENSIONS
        named = {variable: Path(os.environ[variable]) for variable in variables if is_named_by_user(variable)}
        for variable, path in named.items():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _require_private(path, f"{variable}={path}")
        folder = private_folder()
        for variable, name in variables.items():
            if variable not in named and not _is_within(os.environ.get(variable, ""), folder):
                (folder / _COMMON / name).mkdir(parents=True, exist_ok=True)
                os.environ[variable] = str(folder / _COMMON / name)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        # Modules that were imported before know the old temporary folder, as torch's folder of headers shows.
        headers = getattr(sys.modules.get("torch._inductor.codecache"), "_HEADER_DIR", None)
        if headers is not None and not _is_within(headers, folder):
            Path(headers).mkdir(mode=0o700, parents=True, exist_ok=True)
            # torch makes it for all to read; what counts is that nobody else can write there.
            _require_private(Path(headers), headers, readable=True)
    except StorageError as exc:
        return str(exc)
    except OSError as exc:
        return f"no private folder can be made ({exc}); set TMPDIR to a folder of your own"
    return None


def is_named_by_user(variable: str) -> bool:
    """Whether the environment names a place that is neither ours nor the one that torch puts there when imported."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # Slow, but will be in use in a moment.

    value = os.environ.get(variable, "")
    return bool(value) and not _is_within(value, Path(default_cache_dir())) and not _is_within(value, _usual_folder())


def private_folder() -> Path:
    """A folder of this user's alone: below ``$SLURM_TMPDIR``, ``$TMPDIR`` or the system's temporary folder.

    Always the same one, or a new one where somebody else has that name.

    Raises:
        StorageError: no folder there is safe from others, and why.
        OSError: none can be made.
    """
    path = _usual_folder()
    _require_private(path.parent, f"the temporary folder {path.parent}", shared=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    problem = why_not_private(path)
    if problem is None:
        return path
    new = _made_instead.get(path)
    if new is None or why_not_private(new) is not None:
        _LOG.warning("%s is not ours alone (%s): compiled programs go to a new folder, and are not kept", path, problem)
        new = _made_instead[path] = Path(tempfile.mkdtemp(prefix="kdhpc-", dir=path.parent))
    return new


_made_instead: dict[Path, Path] = {}
"""The folders that this process made, by the usual folder in whose place each is used."""


def why_not_private(path: Path, *, shared: bool = False, readable: bool = False) -> str | None:
    """Why others could put something there, or exchange the folder.

    Root, and in a container whoever its root is outside, are trusted.

    Args:
        path: A folder.
        shared: Others may have folders of their own in it, as in ``/tmp``.
        readable: Others may look into it.

    Returns:
        None: they cannot.

    Raises:
        OSError: it cannot be looked at.
    """
    path = path.absolute()
    trusted = _trusted_owners()
    for each in _way_to(path):
        status = each.lstat()
        if status.st_uid not in trusted:
            return f"{each} belongs to another user"
        if stat.S_ISLNK(status.st_mode):
            continue
        is_open = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
        if is_open:
            return f"others can write to {each}"
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        return f"{path} is no folder"
    if shared:
        return None
    if status.st_uid != os.getuid():
        return f"{path} belongs to another user"
    return f"{path} is open to others" if status.st_mode & (0o022 if readable else 0o077) else None


def _require_private(path: Path, name: str, *, shared: bool = False, readable: bool = False) -> None:
    problem = why_not_private(path, shared=shared, readable=readable)
    if problem is not None:
        remedy = (
            "set TMPDIR to a folder of your own" if shared else f"`chmod 700 {path}` if it is yours, or name another"
        )
        raise StorageError(f"{name} is not safe from others ({problem}); {remedy}")


def _usual_folder() -> Path:
    """The folder of this user's processes, which may be the temporary folder already: :func:`keep_private` sets it so
    for child processes."""
    base = Path(os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir()).absolute()
    name = f"kdhpc-{os.getuid()}"
    return base if base.name == name else base / name


def _way_to(path: Path) -> Iterator[Path]:
    """Every folder and link that leads to a path, under its own name and under that of where it leads to."""
    for end in dict.fromkeys((path, path.resolve())):
        yield from reversed(end.parents)
        yield end


def _trusted_owners() -> frozenset[int]:
    """This user and root; in a user namespace also the number that stands for all users outside, root among them."""
    owners = {os.getuid(), 0}
    with contextlib.suppress(OSError, ValueError):
        if Path("/proc/self/uid_map").read_text(encoding="ascii").split() != _WHOLE_MACHINE:
            owners.add(int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii")))
    return frozenset(owners)


def _is_within(path: str, folder: Path) -> bool:
    return bool(path) and Path(path).is_relative_to(folder)
