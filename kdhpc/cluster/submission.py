"""Submitting workers to Slurm, as one submitit job array."""

import math
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from kdhpc.cluster import slurm
from kdhpc.cluster.job import work
from kdhpc.config.paths import StudyPaths
from kdhpc.config.schema import ClusterConfig
from kdhpc.errors import ClusterError
from kdhpc.folders import private_folder

# Workers requeue themselves; submitit's own count of time limits must never be the end of one.
_ENDLESS = 1_000_000


def job_name(study: str) -> str:
    """What Slurm calls a study's workers."""
    return f"kdhpc-{study}"


def submit_workers(study: str, config: Path, cluster: ClusterConfig, count: int) -> str:
    """Submit workers.

    Args:
        study: Name of the study.
        config: Frozen config that the workers read.
        cluster: What each worker's job asks for.
        count: How many.

    Returns:
        Slurm's id of the array; of the job, where there is but one worker.

    Raises:
        ClusterBusyError: Slurm does not answer. It may have taken the jobs all the same: they are in its queue, then.
        ClusterError: it refuses, or takes no array of that size.
        StorageError: what is submitted cannot be kept from other users.
    """
    largest = slurm.largest_array()
    if largest is not None and count > largest:
        raise ClusterError(
            f"cluster.workers={count} is not allowed here: Slurm's MaxArraySize takes arrays of up to {largest} tasks; "
            "launch fewer, and others with another launch"
        )
    private_folder(StudyPaths.of(study).jobs)
    with slurm.clean_environment():
        executor = _executor(study, config.stem, cluster)
        try:
            jobs = executor.map_array(work, [study] * count, [str(config)] * count)
        except (FailedJobError, FailedSubmissionError) as exc:
            raise slurm.refusal("sbatch did not take the workers' jobs", str(exc)) from exc
    return str(jobs[0].job_id).partition("_")[0]


def submission_script(study: str, launch: str, cluster: ClusterConfig, count: int) -> str:
    """The script that :func:`submit_workers` would give to sbatch."""
    executor = _executor(study, launch, cluster)
    if count > 1:
        executor.parameters["map_count"] = count
    return str(executor._make_submission_file_text(executor._submitit_command_str, ""))


def _executor(study: str, launch: str, cluster: ClusterConfig) -> submitit.SlurmExecutor:
    # One folder for all tasks, made before they are submitted: Slurm fails a job whose log's folder is not there yet.
    executor = submitit.SlurmExecutor(StudyPaths.of(study).launch_jobs(launch), max_num_timeout=_ENDLESS)
    executor.update_parameters(
        job_name=job_name(study),
        partition=cluster.partition,
        account=cluster.account,
        qos=cluster.qos,
        constraint=cluster.constraint,
        gpus_per_node=cluster.gpus_per_worker or None,
        cpus_per_task=cluster.cpus_per_worker,
        ntasks_per_node=1,
        mem=f"{math.ceil(1024 * cluster.mem_gb)}M",
        time=cluster.time_min,
        signal_delay_s=cluster.signal_delay_s,
        array_parallelism=cluster.workers,
        setup=list(cluster.setup) or None,
        # USR2 before the time limit reaches steps only; and srun does not ask for the job's cores by itself.
        use_srun=True,
        srun_args=[f"--cpus-per-task={cluster.cpus_per_worker}"],
        stderr_to_stdout=True,
        # submitit's own key is refused where such keys are checked.
        wckey=None,
        additional_parameters={"requeue": True, **dict(_option(option) for option in cluster.sbatch)},
    )
    return executor


def _option(text: str) -> tuple[str, str | bool]:
    """``exclude=node7``, or ``nice`` alone."""
    name, equals, value = text.partition("=")
    return name, value if equals else True
