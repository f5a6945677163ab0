"""Search for how networks should teach each other so that their ensemble is accurate; train and use the result.

>>> import kdhpc
>>> graph = kdhpc.dml(2)
>>> graph.num_nodes
2

Importing this package loads nothing: each name is imported when it is first used. docs/python.md shows them at work.
"""

import importlib

__version__ = "0.1.0"

__all__ = [
    "DesignEntry",
    "Ensemble",
    "GateEntry",
    "Graph",
    "LossEntry",
    "Run",
    "Study",
    "__version__",
    "dml",
    "errors",
    "independent",
    "load",
    "load_graph",
    "search",
    "train",
]

# The types of these names are in __init__.pyi.
_MODULES = {
    "DesignEntry": "kdhpc.graph.catalogue",
    "Ensemble": "kdhpc.inference.ensemble",
    "GateEntry": "kdhpc.graph.catalogue",
    "Graph": "kdhpc.api.graphs",
    "LossEntry": "kdhpc.graph.catalogue",
    "Run": "kdhpc.api.training",
    "Study": "kdhpc.api.searching",
    "dml": "kdhpc.api.graphs",
    "independent": "kdhpc.api.graphs",
    "load": "kdhpc.api.ensemble",
    "load_graph": "kdhpc.api.graphs",
    "search": "kdhpc.api.searching",
    "train": "kdhpc.api.training",
}


def __getattr__(name: str) -> object:
    """Import what is asked for."""
    if name == "errors":
        return importlib.import_module("kdhpc.errors")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
