"""The zoo: graphs that searches have found and that ship with kdhpc, as ``zoo/NAME`` wherever a graph is named.

Each is a graph's file in ``kdhpc/graph/zoo_graphs``; its provenance says which study found it and what it gained where.
"""

from pathlib import Path

from kdhpc.errors import GraphError, nearest

PREFIX = "zoo/"
_FOLDER = Path(__file__).with_name("zoo_graphs")


def zoo_names() -> list[str]:
    """All names, such as ``zoo/cifar100-3-5000``, sorted."""
    return sorted(f"{PREFIX}{path.stem}" for path in _FOLDER.glob("*.json"))


def graph_path(name_or_path: str) -> Path:
    """The file of a graph that is given by its name in the zoo, or by its path.

    ``zoo/NAME`` is the zoo's; write ``./zoo/NAME`` for a file of that name.

    Raises:
        GraphError: no file lies there, and the zoo has no graph of that name.
    """
    if name_or_path in zoo_names():
        return _FOLDER / f"{name_or_path.removeprefix(PREFIX)}.json"
    path = Path(name_or_path)
    if name_or_path.startswith(PREFIX) and not path.exists():
        raise GraphError(
            f"graph '{name_or_path}' is neither in the zoo nor a file: {nearest(name_or_path, zoo_names())}"
        )
    return path
