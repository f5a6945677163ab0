"""The methods by name: what ``kdhpc train --graph NAME`` trains. Free of torch.

A method is one file of this room, and one line in `METHODS`. Its class is imported when something is trained or
predicted; what commands need without torch stands here.
"""

import dataclasses
import re
from dataclasses import dataclass

from kdhpc.config.schema import RunConfig
from kdhpc.errors import ConfigError, nearest

GRAPH = "graph"
"""The method of every name that is no method's: a preset, or a graph's file."""
_GRAPH_KEY = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """A method, without its code."""

    code: str
    """Its subclass of `kdhpc.methods.method.Method`, as ``module:name``."""
    options: tuple[str, ...] = ()
    """Keys of ``run`` that it has and most methods have not."""
    summary: str = ""
    """What it trains, in a few words, for ``kdhpc train --help``."""
    is_one_network: bool = False
    """All nodes are one network, in a single file of weights; else each node has a file of its own."""


METHODS: dict[str, MethodEntry] = {
    GRAPH: MethodEntry(code="kdhpc.methods.graph:GraphMethod"),
    "one": MethodEntry(
        code="kdhpc.methods.one:OneMethod",
        summary="a network with M branches, whose gated ensemble teaches them",
        is_one_network=True,
    ),
    "sla": MethodEntry(
        code="kdhpc.methods.sla:SlaMethod",
        summary="a network that also tells rotations apart, and learns from its own mean over them (SLA+SD)",
        options=("large_loss", "temperature"),
    ),
    "frskd": MethodEntry(
        code="kdhpc.methods.frskd:FrskdMethod",
        summary="a network that learns from a self-teacher on its own features",
        options=("alpha", "beta"),
    ),
    "student": MethodEntry(
        code="kdhpc.methods.student:StudentMethod",
        summary="a network that learns from a run that is done",
        options=("teacher", "teacher_node", "temperature", "distillation_weight"),
    ),
}
"""In the order in which tables and pictures have them."""


def named_methods() -> tuple[str, ...]:
    """The methods that are given by name, as ``run.graph=NAME``."""
    return tuple(name for name in METHODS if name != GRAPH)


def method_named(graph: str) -> str:
    """The method that ``run.graph`` names: that of graphs, unless it is another one's name."""
    return graph if graph in named_methods() else GRAPH


def refuse_other_options(run: RunConfig) -> None:
    """Refuse the options of other methods than the run's.

    Raises:
        ConfigError: one has no meaning for it.
    """
    name = method_named(run.graph)
    defaults = {field.name: field.default for field in dataclasses.fields(RunConfig)}
    options = {option: None for entry in METHODS.values() for option in entry.options}
    for option in options:
        value = getattr(run, option)
        if option not in METHODS[name].options and value != defaults[option]:
            having = " or ".join(other for other, entry in METHODS.items() if option in entry.options)
            raise ConfigError(
                f"run.{option}={value} has no meaning for run.graph={run.graph}: leave it out, or give --graph {having}"
            )


def method_of(key: str) -> str:
    """The name of the method that a result's ``graph_key`` is of: the key of a method begins with its name.

    Args:
        key: 12 hexadecimal digits for a graph; else the method's name, and what tells its settings apart.

    Raises:
        ConfigError: no method of this kdhpc has such a key.
    """
    if _GRAPH_KEY.fullmatch(key):
        return GRAPH
    names = [name for name in named_methods() if key.startswith(name)]
    if not names:
        raise ConfigError(f"no method is known for the key {key!r}: {nearest(key, named_methods())}")
    return max(names, key=len)
