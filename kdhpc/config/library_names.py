"""The names of the networks of torchvision and timm, read from their sources, which are not imported: free of torch."""

import functools
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from kdhpc.config.networks import LIBRARIES
from kdhpc.errors import NetworkError, closest, near

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
    found = near(name, known, at_most=3)
    return f"did you mean {', '.join(map(repr, found))}? " if found else ""


def nearest_networks(name: str, known: Iterable[str]) -> str:
    """The closing words of an error about an unknown network: what may have been meant, and what is allowed.

    Args:
        name: That is not known.
        known: Names without a library in front.

    Returns:
        For example ``did you mean 'torchvision/alexnet'? allowed: ...``.
    """
    own = sorted(known)
    library, slash, rest = name.partition("/")
    if slash:
        meant = closest(library, LIBRARIES)
        hint = f"did you mean '{meant}/{rest or 'NAME'}'? " if meant else ""
        return f"{hint}allowed: torchvision/NAME, timm/NAME, module:Name of your own, or a name without '/'"
    of_libraries = [f"{library}/{name}" for library in LIBRARIES if name in _names_if_installed(library)]
    hint = f"did you mean {' or '.join(map(repr, of_libraries))}? " if of_libraries else near_hint(name, own)
    return f"{hint}allowed: {', '.join(own)}, torchvision/NAME, timm/NAME, module:Name of your own"


def _names_if_installed(library: str) -> tuple[str, ...]:
    try:
        return library_names(library)
    except NetworkError:
        return ()


def _nearest(name: str, known: tuple[str, ...]) -> str:
    """The nearest names, and how many there are: hundreds would be no line."""
    return f"{near_hint(name, known)}allowed: {len(known)} names, such as {', '.join(known[:3])}"
