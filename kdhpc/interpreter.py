"""What Python's own surroundings may do to a process of kdhpc, and to the Pythons that it starts.

Modules come from the environment that kdhpc is installed in, and from the folders that ``PYTHONPATH`` names, as long
as nothing there takes another module's place. They never come from the working folder: a ``queue.py`` of the user's is
no business of a worker. Output can be written in every locale.
"""

import contextlib
import importlib
import os
import shlex
import sys
from collections.abc import Iterator
from importlib.machinery import all_suffixes
from pathlib import Path
from types import ModuleType

from kdhpc.errors import ConfigError

_HAS_SAFE_PATH = sys.version_info >= (3, 11)
# Python's modules whose names are common for folders, and that nothing here imports.
_HARMLESS = frozenset({"test", "idlelib", "turtledemo", "this", "antigravity"})
# How packages are installed, and not what runs.
_INSTALLERS = frozenset({"kdhpc", "pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack", "uv"})
_ROOT = Path(__file__).parents[1]
_MOST_NAMED = 3


def settle() -> None:
    """Make this process, a command, and all Pythons that it starts independent of the working folder and the locale.

    Raises:
        ConfigError: as :func:`check_modules`.
    """
    write_in_any_encoding()
    _leave_working_folder()
    check_modules()


def open_closed_files() -> None:
    """Let standard input, output and error be open, if only to the null device.

    Otherwise the next file or socket that is opened would have the number of one that whoever started this process has
    closed, and what is printed, by a child if not by this process, would go there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # The lowest free number is this one.


def write_in_any_encoding() -> None:
    """Let no character that the output's encoding lacks be an error: it is written as Python writes it to stderr.

    An output that is closed takes everything.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        elif stream is None:  # Whoever started this process has closed it.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123  # for ever


def import_users(module: str) -> ModuleType:
    """Import a user's module. What it prints goes to stderr, since stdout is for what a command gives."""
    with contextlib.redirect_stdout(sys.stderr):
        return importlib.import_module(module)


def child_python() -> str:
    """This Python in a job's command line: without the working folder, and with no other home than this process has.

    The environment of a job may be another than this process's: of another node, after its own modules were loaded.
    """
    return shlex.join(child_python_words())


def child_python_words() -> list[str]:
    """:func:`child_python` as a list of words."""
    words = [] if "PYTHONHOME" in os.environ else ["env", "-u", "PYTHONHOME"]
    words.append(sys.executable)
    if _HAS_SAFE_PATH:
        words.append("-P")
    return words


def check_modules() -> None:
    """See that modules are Python's own or this environment's.

    Raises:
        ConfigError: ``PYTHONHOME`` or ``PYTHONPATH`` bring in others; or the working folder would, with a Python that
            cannot be kept from importing them.
    """
    home = os.environ.get("PYTHONHOME")
    if home and sys.prefix != sys.base_prefix and not _is_home(Path(home)):
        raise ConfigError(
            f"PYTHONHOME={home} is another Python than the one that {sys.prefix} was made with: unset PYTHONHOME"
        )
    path = os.environ.get("PYTHONPATH", "")
    for folder in dict.fromkeys(Path(name) for name in path.split(os.pathsep) if name):
        foreign = sorted(_foreign(folder))
        if foreign:
            raise ConfigError(
                f"PYTHONPATH={path} replaces modules that kdhpc runs with by those of {folder}: {_listed(foreign)}; "
                "unset PYTHONPATH, or take that folder out"
            )
    if not _HAS_SAFE_PATH:
        foreign = sorted(name for name in _modules(Path()) if _is_pythons(name))
        if foreign:
            raise ConfigError(
                f"{Path.cwd()} has modules that Python {sys.version_info.major}.{sys.version_info.minor} would import "
                f"instead of its own: {_listed(foreign)}; rename them, use another folder, or Python 3.11 or later"
            )


def _leave_working_folder() -> None:
    """Import nothing from there, neither here nor in children."""
    try:
        folder = str(Path.cwd())
    except FileNotFoundError:  # Somebody has removed it.
        folder = ""
    path = os.environ.get("PYTHONPATH", "")
    # An empty name is the working folder, too. `PYTHONPATH=$PYTHONPATH:/x` makes one, and means none.
    named = [name for name in path.split(os.pathsep) if name]
    if path:
        os.environ["PYTHONPATH"] = os.pathsep.join(named)
    os.environ["PYTHONSAFEPATH"] = "1"
    if folder in sys.path and not any(Path(name).resolve() == Path(folder) for name in named):
        sys.path.remove(folder)
        if Path(folder) == _ROOT:
            sys.path.append(folder)  # Where kdhpc is found; last, it takes no other module's place.


def _is_home(home: Path) -> bool:
    """Whether that is the prefix of the Python that this virtual environment was made with."""
    lines = (Path(sys.prefix) / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    settings = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    return Path(settings.get("home", "")).resolve() == (home / "bin").resolve()


def _foreign(folder: Path) -> Iterator[str]:
    """Names of the modules in a folder of ``PYTHONPATH`` that are Python's, or another one's of this environment.

    Where kdhpc itself comes from its developer may have folders like ``tests``, as packages have them, too.
    """
    environment = [Path(name) for name in sys.path if name.endswith(("site-packages", "dist-packages"))]
    if any(folder.resolve() == other.resolve() for other in environment):
        return
    for name, place in _modules(folder).items():
        others = [found.resolve() for other in environment if (found := _find(other, name)) is not None]
        is_other = name not in _INSTALLERS and bool(others) and place.resolve() not in others
        if _is_pythons(name) or (is_other and folder.resolve() != _ROOT):
            yield name


def _is_pythons(name: str) -> bool:
    return name in sys.stdlib_module_names and name not in _HARMLESS


def _modules(folder: Path) -> dict[str, Path]:
    """Modules and packages in a folder, by name; none where it cannot be read."""
    found = {}
    try:
        for entry in folder.iterdir():
            name = next((entry.name.removesuffix(end) for end in all_suffixes() if entry.name.endswith(end)), None)
            if name is not None or (entry.name.isidentifier() and (entry / "__init__.py").is_file()):
                found[name or entry.name] = entry
    except OSError:
        return {}
    return found


def _find(folder: Path, name: str) -> Path | None:
    """The module or package of that name in a folder."""
    if (folder / name / "__init__.py").is_file():
        return folder / name
    return next((path for end in all_suffixes() if (path := folder / f"{name}{end}").is_file()), None)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(names[:_MOST_NAMED])}{more}"
