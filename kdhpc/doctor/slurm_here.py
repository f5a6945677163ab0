"""Slurm, as seen from here."""

from collections.abc import Iterator

from kdhpc.cluster import site, slurm
from kdhpc.cluster.commands import UnconfiguredError, require
from kdhpc.doctor.finding import Finding, absent, fault, ok
from kdhpc.errors import ClusterError
from kdhpc.words import counted


def check_slurm() -> Iterator[Finding]:
    """Whether its commands are here and answer, and what it offers."""
    try:
        require()
    except ClusterError as exc:
        kind = fault if slurm.is_available() else absent
        yield kind("Slurm", str(exc), "searches run on this machine alone: kdhpc search")
        return
    try:
        version, partitions = site.version(), site.partitions()
        queued = len(slurm.queue())
    except UnconfiguredError as exc:
        yield absent("Slurm", str(exc))
        return
    except ClusterError as exc:
        yield fault("Slurm", str(exc), "is the controller up (scontrol ping)?")
        return
    name = slurm.local_cluster()
    yield ok(
        "Slurm", f"{version}{f', cluster {name}' if name else ''}, {counted(queued, 'job')} of this user in the queue"
    )
    for partition in partitions:
        yield _shown(partition)
    accounts = site.accounts()
    if accounts:
        yield ok("accounts", f"{', '.join(accounts)} (cluster.account=NAME)")


def _shown(partition: site.Partition) -> Finding:
    size = f"{partition.cores} cores, {partition.memory_mb} MB"
    gpus = f", {partition.gres}" if partition.gres else ", no GPU"
    default = ", the default" if partition.is_default else ""
    words = f"{counted(partition.nodes, 'node')} of {size}{gpus}; time limit {partition.time_limit}{default}"
    kind = ok if partition.is_up else absent
    return kind(f"partition {partition.name}", words if partition.is_up else f"{words}; it takes no jobs")
