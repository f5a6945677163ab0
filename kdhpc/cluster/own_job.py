"""What this process is part of."""

import os

from kdhpc.cluster import slurm


def job_id() -> str | None:
    """What this process is part of: a Slurm job (see :func:`kdhpc.cluster.slurm.own_job`), or ``local-<id>``."""
    local = os.environ.get("SUBMITIT_LOCAL_JOB_ID")
    return slurm.own_job() or (f"local-{local}" if local else None)
