"""What Slurm says of its site: its partitions, and the accounts that a user may charge."""

import getpass
from dataclasses import dataclass

from kdhpc.cluster.commands import ask, read_table, table_format
from kdhpc.errors import ClusterError

_FIELDS = ("%P", "%a", "%D", "%c", "%m", "%l", "%G")


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition, or the nodes of one kind in it."""

    name: str
    """Its name."""
    is_default: bool
    """Jobs that name none go there."""
    is_up: bool
    """It takes jobs."""
    nodes: int
    """Number of nodes of this kind."""
    cores: str
    """Of a node, as Slurm writes it: ``64``, ``64+``."""
    memory_mb: str
    """Of a node, likewise."""
    time_limit: str
    """``2-00:00:00``, or ``infinite``."""
    gres: str
    """What a node has beside, as ``gpu:a100:4``; empty: nothing."""


def version() -> str:
    """Slurm's, as its commands say it.

    Raises:
        ClusterError: they do not.
    """
    return ask("sinfo", "--version", timeout_s=5.0).strip().splitlines()[-1]


def partitions() -> tuple[Partition, ...]:
    """The partitions that this user may see, in Slurm's order.

    Raises:
        ClusterError: Slurm does not answer.
    """
    answer = ask("sinfo", "-o", table_format(_FIELDS), timeout_s=10.0)
    return tuple(
        Partition(
            name=name.rstrip("*"),
            is_default=name.endswith("*"),
            is_up=available == "up",
            nodes=int(nodes) if nodes.isdigit() else 0,
            cores=cores,
            memory_mb=memory,
            time_limit=limit,
            gres="" if gres == "(null)" else gres,
        )
        for name, available, nodes, cores, memory, limit, gres in read_table("sinfo", answer, "PARTITION", len(_FIELDS))
    )


def accounts() -> tuple[str, ...]:
    """Those that this user may charge; none where Slurm keeps no accounts, or does not say."""
    try:
        answer = ask(
            *("sacctmgr", "-nP", "show", "associations", f"user={getpass.getuser()}", "format=Account"), timeout_s=10.0
        )
    except (ClusterError, KeyError, OSError):
        return ()
    return tuple(dict.fromkeys(line.strip() for line in answer.splitlines() if line.strip()))
