"""Submitting workers to Slurm, as one submitit job array."""

import math
from pathlib import Path

import submitit

from kdhpc.cluster import slurm
from kdhpc.cluster.sbatch import script_text, submissions
from kdhpc.config.paths import StudyPaths
from kdhpc.config.schema import ClusterConfig
from kdhpc.errors import ClusterError
from kdhpc.folders import private_folder
from kdhpc.searching.job import work
from kdhpc.searching.manifest import wanted_cluster

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
        The job array, or the job if there is one worker alone, with its cluster.

    Raises:
        ClusterBusyError: Slurm does not answer. It may have taken the jobs all the same: they are in its queue, then.
        ClusterError: it refuses, or takes no array of that size.
        StorageError: the folder of the jobs cannot be closed to other users.
    """
    private_folder(StudyPaths.of(study).jobs)
    with submissions(cluster.python) as made:
        executor = _executor(study, config.stem, cluster)
        largest = slurm.largest_array(slurm.elsewhere(made.cluster_of(executor)))
        if largest is not None and count > largest:
            raise ClusterError(
                f"cluster.workers={count} is not allowed here: Slurm's MaxArraySize takes arrays of up to {largest} "
                "tasks; launch fewer, and others with another launch"
            )
        executor.map_array(work, [study] * count, [str(config)] * count)
    (array,) = made.jobs.values()
    return array


def submission_script(study: str, launch: str, cluster: ClusterConfig, count: int) -> str:
    """The script that :func:`submit_workers` would give to sbatch."""
    executor = _executor(study, launch, cluster)
    if count > 1:
        executor.parameters["map_count"] = count
    return script_text(executor, executor._submitit_command_str, wanted_cluster(cluster), cluster.python)


def _executor(study: str, launch: str, cluster: ClusterConfig) -> submitit.SlurmExecutor:
    return slurm_executor(StudyPaths.of(study).launch_jobs(launch), job_name(study), cluster)


def slurm_executor(folder: Path, name: str, cluster: ClusterConfig) -> submitit.SlurmExecutor:
    """What submits jobs that ask for what a worker's job asks for.

    Args:
        folder: Of the jobs' scripts, pickles and logs. One for all tasks, made before they are submitted: Slurm fails
            a job whose log's folder is not there yet.
        name: What Slurm calls the jobs.
        cluster: What they ask for.
    """
    executor = submitit.SlurmExecutor(folder, max_num_timeout=_ENDLESS)
    executor.update_parameters(
        job_name=name,
        partition=cluster.partition,
        account=cluster.account,
        qos=cluster.qos,
        constraint=cluster.constraint,
        gpus_per_node=cluster.gpus_per_worker or None,
        cpus_per_task=cluster.cpus_per_worker,
        ntasks_per_node=1,
        mem=_megabytes(cluster.mem_gb),
        mem_per_cpu=_megabytes(cluster.mem_per_cpu_gb),
        time=cluster.time_min,
        signal_delay_s=cluster.signal_delay_s,
        array_parallelism=cluster.workers,
        setup=list(cluster.setup) or None,
        # The signal before the time limit reaches only job steps, which srun makes; srun does not ask for the job's
        # cores by itself.
        use_srun=True,
        srun_args=[f"--cpus-per-task={cluster.cpus_per_worker}"],
        stderr_to_stdout=True,
        # By default submitit sends a wckey, which clusters that check such keys refuse.
        wckey=None,
        additional_parameters={"requeue": True, **dict(_option(option) for option in cluster.sbatch)},
    )
    return executor


def _option(text: str) -> tuple[str, str | bool]:
    """``exclude=node7``, or ``nice`` alone."""
    name, equals, value = text.partition("=")
    return name, value if equals else True


def _megabytes(gigabytes: float | None) -> str | None:
    """Memory in the form that Slurm reads; None: sbatch gets no such option."""
    return None if gigabytes is None else f"{math.ceil(1024 * gigabytes)}M"
