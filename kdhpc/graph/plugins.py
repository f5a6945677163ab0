"""Plug-ins: modules of users that define designs and gates, imported by name, and known by a digest of their source.

A plug-in is imported because a config or a study of the user's own names it. A graph's file only says which plug-ins it
needs: a file from somebody else imports nothing.
"""

import hashlib
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from kdhpc.errors import ConfigError
from kdhpc.graph.catalogue import DesignEntry, GateEntry, add_design, add_gate
from kdhpc.graph.spec import Design, Gate, GraphSpec
from kdhpc.interpreter import import_users

Entry = TypeVar("Entry", DesignEntry, GateEntry)
_WHERE = "a plug-in is a module of an installed package, or of a folder in PYTHONPATH (not of the working folder)"


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plug-in that this process has imported."""

    module: str
    """Its name."""
    digest: str
    """12 hexadecimal digits that name its source: of the file, or of all ``.py`` files of a package."""
    names: frozenset[Design | Gate]
    """What it defines."""


_LOADED: dict[str, Plugin] = {}


def load_plugins(modules: Iterable[str]) -> tuple[Plugin, ...]:
    """Import plug-ins, and add their designs and gates to the catalogue. Those that are loaded stay as they are.

    Args:
        modules: Their names, as ``import`` takes them.

    Raises:
        ConfigError: a module does not exist, fails, defines nothing, or defines what cannot be used; the message says
            where and why.
    """
    return tuple(_LOADED[module] if module in _LOADED else _load(module) for module in modules)


def plugins_of(names: Iterable[Design | Gate]) -> dict[str, str]:
    """The digests of the plug-ins that define some designs and gates, by module. kdhpc's own need none."""
    wanted = {name for name in names if not name.is_built_in}
    return {plugin.module: plugin.digest for _, plugin in sorted(_LOADED.items()) if plugin.names & wanted}


def names_in(graph: GraphSpec) -> frozenset[Design | Gate]:
    """The designs and gates of a graph, but for designs of cutoff edges, which have no effect."""
    active = [edge for edge in graph.edges if edge.gate is not Gate.CUTOFF]
    return frozenset([*graph.label_gates, *(edge.design for edge in active), *(edge.gate for edge in active)])


def missing_plugins(modules: Mapping[str, str]) -> list[str]:
    """Those that this process has not loaded."""
    return [module for module in modules if module not in _LOADED]


def changed_plugins(modules: Mapping[str, str]) -> list[str]:
    """Those that have another digest in this process, each with both digests, in words."""
    return [
        f"{module} was {digest}, is {_LOADED[module].digest}"
        for module, digest in modules.items()
        if module in _LOADED and _LOADED[module].digest != digest
    ]


def _load(module: str) -> Plugin:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", module) or module.endswith(".py"):
        raise ConfigError(f"plug-in {module!r} is no name of a module: give it as `import` does, such as my_designs")
    imported = _import(module)
    designs, gates = _entries(imported, "DESIGNS", DesignEntry), _entries(imported, "GATES", GateEntry)
    if not designs and not gates:
        raise ConfigError(
            f"plug-in {module!r} ({_file(imported)}) defines no DESIGNS and no GATES: give it one of them"
        )
    plugin = Plugin(
        module=module,
        digest=_digest(imported),
        names=frozenset(_add(designs, gates, f"{module!r} ({_file(imported)})")),
    )
    _LOADED[module] = plugin
    return plugin


def _add(designs: Sequence[DesignEntry], gates: Sequence[GateEntry], origin: str) -> Iterator[Design | Gate]:
    """All or none."""
    for what, names, known in (
        ("design", [entry.name for entry in designs], set(Design)),
        ("gate", [entry.name for entry in gates], set(Gate)),
    ):
        for name in names:
            if name in known or names.count(name) > 1:
                raise ConfigError(f"plug-in {origin}: {what} {name!r} is there already: give yours another name")
    yield from map(add_design, designs)
    yield from map(add_gate, gates)


def _import(module: str) -> ModuleType:
    try:
        return import_users(module)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (module == exc.name or module.startswith(f"{exc.name}.")):
            raise ConfigError(
                f"plug-in {module!r} cannot be imported, there is no module {exc.name!r}: {_WHERE}"
            ) from exc
        raise ConfigError(_failed(module, exc)) from exc
    except (Exception, SystemExit) as exc:  # A user's code may fail in whatever way.
        raise ConfigError(_failed(module, exc)) from exc


def _failed(module: str, exc: BaseException) -> str:
    """The file and the line that failed, and how."""
    if isinstance(exc, SyntaxError):
        place, words = f"{exc.filename}, line {exc.lineno}", exc.msg
    else:
        # In the user's code, not in a library, nor in the catalogue that refuses an entry.
        frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if _is_users(frame.filename)]
        place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "its import"
        words = " ".join(str(exc).split())
    return f"plug-in {module!r} cannot be imported, {place} fails: {type(exc).__name__}: {words}"


def _is_users(filename: str) -> bool:
    return not filename.startswith("<") and not filename.startswith((str(Path(__file__).parents[1]), sys.base_prefix))


def _entries(module: ModuleType, name: str, kind: type[Entry]) -> tuple[Entry, ...]:
    found: object = getattr(module, name, ())
    if not isinstance(found, (list, tuple)) or not all(isinstance(entry, kind) for entry in found):
        raise ConfigError(
            f"plug-in {module.__name__!r} ({_file(module)}) has {name} that is no list of {kind.__name__}: make it one"
        )
    return tuple(found)


def _file(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "no file"


def _digest(module: ModuleType) -> str:
    file = Path(_file(module))
    files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    digest = hashlib.sha256()
    try:
        for path in files:
            digest.update(f"{path.relative_to(file.parent).as_posix()} ".encode() if len(files) > 1 else b"")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    except OSError as exc:
        raise ConfigError(f"plug-in {module.__name__!r}: {file} cannot be read: {exc.strerror or exc}") from exc
    return digest.hexdigest()[:12]
