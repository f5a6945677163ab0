"""The manifest of a launch: what was submitted, when, by whom. It is how later commands know a study's jobs."""

import getpass
import logging
import os
import re
import secrets
import socket
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

import dacite

from kdhpc import __version__
from kdhpc.cluster import slurm
from kdhpc.config.document import write_config
from kdhpc.config.paths import StudyPaths
from kdhpc.config.schema import ClusterConfig, SearchConfig
from kdhpc.errors import ClusterError, StorageError
from kdhpc.files.json_text import parse_json, strict_json
from kdhpc.files.reading import read_whole
from kdhpc.files.storage_errors import patiently, storage_error
from kdhpc.files.writing import write_whole
from kdhpc.folders import own_folder, private_folder
from kdhpc.provenance import code_versions

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One launch."""

    study: str
    """Name of the study."""
    launch: str
    """A name that no other launch has, with the job that launches, if any: ``job<id>-<time>-<6 random digits>``."""
    host: str
    """Name of the machine on which it was launched."""
    user: str
    """Name of the user who launched it."""
    command: tuple[str, ...]
    """The command line that launched it."""
    kdhpc: str
    """Version of kdhpc."""
    job: str | None
    """The Slurm job that launches, with its cluster; None: it was launched from a shell."""
    arrays: tuple[str, ...]
    """The job arrays (or single jobs) of workers, with their cluster, in the order of submission."""
    executor: Literal["local", "slurm"] = "slurm"
    """``local``: the workers are processes, and there is nothing to ask Slurm for."""
    cluster: str | None = None
    """The Slurm cluster that workers are submitted to; None: that of this machine's configuration."""
    restarts: int = 0
    """How often its launching job had been requeued when this launch was begun, or last went on."""
    versions: dict[str, str] = field(default_factory=dict, hash=False)
    """What it was launched with, see :func:`kdhpc.provenance.code_versions`; empty: an older version launched it."""

    def write(self) -> None:
        """Replace the file.

        Raises:
            StorageError: the file system refuses.
        """
        write_whole(StudyPaths.of(self.study).launch(self.launch), strict_json(asdict(self), indent=2), "\n")

    def with_array(self, array: str) -> "Manifest":
        """Add a job array of workers to the file. Returns the new manifest."""
        cluster = self.cluster or array.partition("@")[2] or None
        manifest = replace(self, arrays=(*self.arrays, array), cluster=cluster)
        manifest.write()
        return manifest

    def gone_on(self, restarts: int) -> "Manifest":
        """Note in the file that the launch goes on after its job was requeued so often. Returns the new manifest."""
        manifest = replace(self, restarts=restarts)
        manifest.write()
        return manifest

    @property
    def config(self) -> Path:
        """The frozen config that this launch's workers read."""
        return StudyPaths.of(self.study).config(self.launch)

    @property
    def logs(self) -> Path:
        """Folder of the logs of this launch's workers."""
        return StudyPaths.of(self.study).launch_jobs(self.launch)


def wanted_cluster(cluster: ClusterConfig) -> str | None:
    """Where the workers of a launch go; None: to the cluster of this machine's configuration.

    Raises:
        UsageError: several clusters are named.
    """
    return slurm.wanted_cluster(cluster.sbatch, otherwise=os.environ.get("SLURM_CLUSTERS"))


def freeze_launch(study: str, config: SearchConfig) -> Manifest:
    """Write the config that the workers of one launch read.

    Returns:
        The launch's manifest, to be written once there is a study to work on.

    Raises:
        UsageError: the workers are to go to several clusters.
        ClusterError: Slurm does not say which job this process is part of.
        StorageError: the file system refuses, or the folders are another user's.
    """
    on_slurm = config.cluster.executor == "slurm"
    paths = StudyPaths.of(study)
    private_folder(paths.jobs)
    # What is read from these becomes commands of jobs.
    for path in (paths.config(""), paths.launch("")):
        own_folder(path.parent)
    manifest = Manifest(
        study=study,
        launch=launch_name(),
        host=socket.gethostname(),
        user=_user(),
        command=tuple(sys.argv),
        kdhpc=__version__,
        job=slurm.own_job(),
        arrays=(),
        executor=config.cluster.executor,
        # A job's own cluster is named, as others may read this on machines of another.
        cluster=(wanted_cluster(config.cluster) or _own_cluster()) if on_slurm else None,
        restarts=slurm.num_restarts(),
        versions=code_versions(),
    )
    write_config(config, manifest.config)
    return manifest


def continued_manifest(study: str) -> Manifest | None:
    """The manifest of the launch that this command made before its job was requeued; None: it made none.

    A launch is recognised by its command line. If several of a job's launches have the same one, each call goes on with
    the next of them.

    Raises:
        ClusterError: Slurm does not say which job this process is part of, or the file system refuses.
    """
    restarts, job = slurm.num_restarts(), slurm.own_job()
    if not restarts:
        return None
    made = (manifest for manifest in read_manifests(study) if manifest.job is not None and manifest.job == job)
    mine = [manifest for manifest in made if manifest.command == tuple(sys.argv) and manifest.restarts < restarts]
    # Names of one job's launches are in the order of time.
    return mine[0].gone_on(restarts) if mine else None


def launch_name() -> str:
    """A name for a launch that happens now, as described for `Manifest.launch`."""
    job = slurm.own_job()
    # In UTC, so that names are in order when clocks are set to another season.
    moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return f"{f'job{job}-' if job else ''}{moment}-{secrets.token_hex(3)}"


def _own_cluster() -> str | None:
    job = slurm.own_job()
    return None if job is None else job.partition("@")[2] or None


def _user() -> str:
    """Name of the user; the number where nobody has given it a name, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def read_manifest(study: str, launch: str) -> Manifest | None:
    """A launch's manifest; None if there is no such launch, or if its file is damaged, which is logged once.

    Raises:
        StorageError: the file system refuses to read it.
    """
    path = StudyPaths.of(study).launch(launch)
    try:
        document = parse_json(read_whole(path))
        if not isinstance(document, dict):
            raise ValueError("it is no mapping")
        return dacite.from_dict(Manifest, document, dacite.Config(cast=[tuple]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, dacite.DaciteError) as exc:
        _warn_about(f"{path} is damaged ({' '.join(str(exc).split())}): what it said of that launch is lost")
        return None


def read_manifests(study: str) -> tuple[Manifest, ...]:
    """All launches of a study, by name.

    If a file is damaged or cannot be read, this is logged once, and the manifest has only what the launch's name says.
    Its jobs are still known by the folder of their script, so that they are counted and not submitted again.

    Raises:
        ClusterError: the file system refuses to list them, so that nothing is known of the study's jobs.
    """
    folder = StudyPaths.of(study).launch("").parent
    try:
        launches = sorted(path.stem for path in patiently(lambda: list(folder.iterdir())) if path.suffix == ".json")
    except FileNotFoundError:
        return ()
    except OSError as exc:
        raise ClusterError(str(storage_error(exc, folder, "read"))) from exc
    return tuple(_read_or_guess(study, launch) for launch in launches)


def _read_or_guess(study: str, launch: str) -> Manifest:
    try:
        manifest = read_manifest(study, launch)
    except StorageError as exc:
        _warn_about(str(exc))
        manifest = None
    return manifest or _named(study, launch)


def _named(study: str, launch: str) -> Manifest:
    """What a launch's name says."""
    job = re.match(r"job(\d+(?:_\d+)?(?:@[\w.-]+?)?)(?:-\d{8}-\d{6}-[0-9a-f]{6})?$", launch)
    return Manifest(
        study=study,
        launch=launch,
        host="",
        user="",
        command=(),
        kdhpc="",
        job=job and job[1],
        arrays=(),
        cluster=(job and job[1].partition("@")[2]) or None,
    )


@cache
def _warn_about(message: str) -> None:
    """Once a process: a launcher that stays looks again and again."""
    _LOG.warning("%s", message)
