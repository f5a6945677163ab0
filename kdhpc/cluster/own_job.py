"""The batch job that this process is part of: a job of Slurm, or one that submitit runs on this machine."""

import os

from kdhpc.cluster import slurm


def job_id() -> str | None:
    """Name of the batch job that this process is part of, for status and logs.

    Returns:
        The Slurm job as :func:`kdhpc.cluster.slurm.own_job` names it, or ``local-<id>`` of a job of submitit's on this
        machine; None: this process is part of neither.
    """
    local = os.environ.get("SUBMITIT_LOCAL_JOB_ID")
    return slurm.own_job() or (f"local-{local}" if local else None)
