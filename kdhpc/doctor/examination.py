"""All checks, in the order in which they are shown."""

from collections.abc import Callable, Iterator

from kdhpc.doctor.database import check_database
from kdhpc.doctor.datasets import check_datasets
from kdhpc.doctor.disks import check_disks
from kdhpc.doctor.finding import Finding, fault
from kdhpc.doctor.slurm_here import check_slurm
from kdhpc.doctor.software import check_software
from kdhpc.doctor.torch_here import check_torch

_CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "software": check_software,
    "disks": check_disks,
    "data": check_datasets,
    "database": check_database,
    "Slurm": check_slurm,
    "torch": check_torch,
}


def examine(*, quick: bool = False) -> Iterator[Finding]:
    """What all checks find, as they find it. A check that fails itself is a finding, too.

    Args:
        quick: Leave out torch, which takes longest.
    """
    for name, check in _CHECKS.items():
        if quick and check is check_torch:
            continue
        try:
            yield from check()
        except Exception as exc:  # One that cannot look must not hide what the others see.
            yield fault(name, f"could not be looked at: {type(exc).__name__}: {' '.join(str(exc).split())}")
