"""What jobs of this site should ask for, as far as Slurm tells: a partition with GPUs, and what fits on its nodes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdhpc.cluster import site
from kdhpc.cluster.commands import parse_duration, require
from kdhpc.errors import ClusterError

_CORES, _MEM_GB, _TIME_MIN, _SIGNAL_DELAY_S = 4, 16, 240, 180
"""What a worker's job asks for where nodes have more, as in the shipped ``configs/cluster/slurm.yaml``."""


@dataclass(frozen=True, kw_only=True)
class SiteChoice:
    """What the jobs of a project ask for."""

    partition: str | None = None
    """Of the GPU workers; None: the site's default one."""
    launch_partition: str | None = None
    """Of the small job that launches; None: the site's default one."""
    account: str | None = None
    """Charged for them; None: the user's default one."""
    gpus: int = 1
    """Of a worker: 1; 0 where Slurm reports none."""
    cores: int = _CORES
    """Of a worker."""
    mem_gb: int | None = _MEM_GB
    """Of a worker; None: Slurm does not manage memory, or does not say how much there is."""
    time_min: int = _TIME_MIN
    """Time limit of a worker's job, in minutes."""
    signal_delay_s: int = _SIGNAL_DELAY_S
    """A worker has so long before its time limit."""
    partitions: tuple[site.Partition, ...] = ()
    """All that Slurm reports."""
    accounts: tuple[str, ...] = ()
    """All that this user may charge."""
    problem: str | None = None
    """Why nothing is known of the site; None: Slurm has answered."""


def ask_site() -> SiteChoice:
    """Ask Slurm. It may take ten seconds to say that it does not answer."""
    try:
        require()
        return choose(site.partitions(), site.accounts())
    except ClusterError as exc:
        return SiteChoice(problem=str(exc))


def choose(partitions: Sequence[site.Partition], accounts: Sequence[str]) -> SiteChoice:
    """What to ask for.

    Args:
        partitions: As Slurm reports them: one for each kind of node in a partition.
        accounts: That the user may charge. Of several, none is chosen: Slurm knows which one is the default.
    """
    usable = [partition for partition in partitions if partition.is_up]
    default = next((partition for partition in usable if partition.is_default), None)
    best_first = sorted(usable, key=lambda partition: (not _num_gpus(partition), not partition.is_default))
    chosen = next(iter(best_first), None)
    known = SiteChoice(
        account=accounts[0] if len(accounts) == 1 else None, partitions=tuple(partitions), accounts=tuple(accounts)
    )
    if chosen is None:
        return known
    share = max(1, _num_gpus(chosen))
    limit_s = parse_duration(chosen.time_limit)
    time_min = _TIME_MIN if limit_s is None else max(1, min(_TIME_MIN, int(limit_s // 60)))
    return replace(
        known,
        partition=None if chosen.is_default else chosen.name,
        launch_partition=usable[0].name if default is None else None,
        gpus=min(1, _num_gpus(chosen)),
        cores=max(1, min(_CORES, _number(chosen.cores) // share)),
        mem_gb=_share_of_memory(_number(chosen.memory_mb), share),
        time_min=time_min,
        signal_delay_s=min(_SIGNAL_DELAY_S, 30 * time_min),
    )


def _num_gpus(partition: site.Partition) -> int:
    """GPUs of a node, from ``gpu:a100:4(S:0-1),nvme:1``."""
    each = [resource.split(":") for resource in re.sub(r"\([^)]*\)", "", partition.gres).split(",")]
    return sum(int(count[-1]) if count[-1].isdigit() else 1 for count in each if count[0] == "gpu")


def _number(text: str) -> int:
    """Of ``64`` and ``64+``; 0 of anything else."""
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0


def _share_of_memory(node_mb: int, share: int) -> int | None:
    """GB for a worker, with some left for the system; None of a node whose memory Slurm was not told (it says 1)."""
    if node_mb < 1024:
        return None
    return max(1, min(_MEM_GB, int(0.95 * node_mb / share / 1024)))
