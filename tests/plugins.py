"""Plug-ins in tests: modules that are written, found, and forgotten again."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdhpc.graph import catalogue, plugins
from kdhpc.graph.spec import Design, Gate

EXAMPLES = Path(__file__).parents[1] / "examples"


def forget_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test begin with kdhpc's own designs and gates, and leave none of its plug-ins to others."""
    for owner, name in ((Gate, "_known"), (Design, "_known")):
        kept = {key: member for key, member in getattr(owner, name).items() if member.is_built_in}
        monkeypatch.setattr(owner, name, kept)
    for name in ("_DESIGNS", "_GATES"):
        kept = {key: entry for key, entry in getattr(catalogue, name).items() if key.is_built_in}
        monkeypatch.setattr(catalogue, name, kept)
    monkeypatch.setattr(plugins, "_LOADED", {})


def plugin_writer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A function that writes a plug-in where this process finds it, and gives its name."""
    forget_plugins(monkeypatch)
    monkeypatch.syspath_prepend(str(folder))

    def write(source: str, name: str = "my_plugin") -> str:
        (folder / f"{name}.py").write_text(source)
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return name

    return write
