"""The names of the networks of torchvision and timm, read from their sources, which are not imported: free of torch."""

import contextlib
import difflib
import functools
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from kdhpc.config.networks import LIBRARIES
from kdhpc.errors import NetworkError

_REGISTERED = re.compile(r"^@register_model(?:\(\))?\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
_HOW = {"torchvision": "pip install torchvision", "timm": "pip install 'kdhpc[timm]'"}


def check_library_name(name: str) -> None:
    """Refuse a name of no network of its library, as far as its sources say.

    Args:
        name: ``torchvision/NAME`` or ``timm/NAME``. A tag of timm's, as in ``resnet18.a1_in1k``, says which weights
            were trained: none are loaded, and it changes nothing.

    Raises:
        NetworkError: the library is not installed, or has no such network; the message gives the nearest.
    """
    library, _, network = name.partition("/")
    known = library_names(library)
    base = network.partition(".")[0] if library == "timm" else network
    if known and base not in known:
        raise NetworkError(f"unknown network {name!r} of {library}: {_nearest(base, known)}")


def library_names(library: str) -> tuple[str, ...]:
    """The names of a library's classifiers of images, in order; empty where it has no sources.

    Raises:
        NetworkError: it is not installed.
    """
    folder = _models(library)
    if folder is None:
        raise NetworkError(f"networks of {library} need {library}, which is not installed: {_HOW[library]}")
    return _names_in(folder)


def _models(library: str) -> Path | None:
    try:
        found = importlib.util.find_spec(library)  # Of a package at the top, this imports nothing.
    except (ImportError, ValueError):
        return None
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations))) / "models"


@functools.cache
def _names_in(folder: Path) -> tuple[str, ...]:
    """Those that files of the folder itself register: below it are networks for other tasks."""
    names: set[str] = set()
    for path in folder.glob("*.py"):
        names.update(_REGISTERED.findall(path.read_text(encoding="utf-8")))
    return tuple(sorted(names))


def near_hint(name: str, known: Iterable[str]) -> str:
    """``did you mean 'resnet20', 'resnet26'? ``: the nearest names of networks; empty where none is near."""
    near = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {', '.join(map(repr, near))}? " if near else ""


def with_its_library(name: str) -> tuple[str, ...]:
    """The names with a library in front of those that are in one, as ``torchvision/alexnet`` of ``alexnet``."""
    found = []
    for library in LIBRARIES:
        with contextlib.suppress(NetworkError):  # It is not installed.
            if name in library_names(library):
                found.append(f"{library}/{name}")
    return tuple(found)


def _nearest(name: str, known: tuple[str, ...]) -> str:
    """The nearest names, and how many there are: hundreds would be no line."""
    return f"{near_hint(name, known)}allowed: {len(known)} names, such as {', '.join(known[:3])}"
