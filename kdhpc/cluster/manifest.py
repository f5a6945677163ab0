"""The manifest of a launch: what was submitted, when, by whom. It is how later commands know a study's jobs."""

import getpass
import json
import os
import socket
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from kdhpc import __version__
from kdhpc.cluster.slurm import own_job
from kdhpc.config.document import write_config
from kdhpc.config.paths import StudyPaths
from kdhpc.config.schema import SearchConfig
from kdhpc.errors import ClusterError


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One launch."""

    study: str
    """Name of the study."""
    launch: str
    """Its own name: ``job<id>`` of a launching job, which keeps it when it is requeued; else time and process."""
    host: str
    """Where it was launched."""
    user: str
    """By whom."""
    command: tuple[str, ...]
    """How."""
    kdhpc: str
    """Version."""
    job: str | None
    """The Slurm job that launches; none: it was launched from a shell."""
    arrays: tuple[str, ...]
    """Slurm's ids of the job arrays (or single jobs) of workers, in the order of submission."""

    def write(self) -> None:
        """Replace the file."""
        path = StudyPaths.of(self.study).launch(self.launch)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.replace(path)

    def with_array(self, array: str) -> "Manifest":
        """The manifest, and the file, with another array."""
        manifest = replace(self, arrays=(*self.arrays, array))
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


def freeze_launch(study: str, config: SearchConfig) -> Manifest:
    """Write the config that the workers of one launch read.

    Returns:
        The launch's manifest, to be written once there is a study to work on.
    """
    manifest = Manifest(
        study=study,
        launch=launch_name(),
        host=socket.gethostname(),
        user=_user(),
        command=tuple(sys.argv),
        kdhpc=__version__,
        job=own_job(),
        arrays=(),
    )
    write_config(config, manifest.config)
    return manifest


def launch_name() -> str:
    """Of a launch that happens now."""
    job = own_job()
    return f"job{job}" if job else f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def _user() -> str:
    """Name of the user; the number where nobody has given it a name, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def read_manifest(study: str, launch: str) -> Manifest | None:
    """A launch's manifest; none where it has not been launched.

    Raises:
        ClusterError: the file cannot be understood.
    """
    path = StudyPaths.of(study).launch(launch)
    try:
        document = json.loads(path.read_text())
        values = {field.name: document[field.name] for field in fields(Manifest)}
        return Manifest(**{**values, "command": tuple(values["command"]), "arrays": tuple(values["arrays"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ClusterError(f"{path} cannot be read ({type(exc).__name__}: {exc}): delete it") from exc


def read_manifests(study: str) -> tuple[Manifest, ...]:
    """All launches of a study, by name.

    Raises:
        ClusterError: a file cannot be understood.
    """
    paths = sorted(StudyPaths.of(study).launch("").parent.glob("*.json"))
    found = (read_manifest(study, path.stem) for path in paths)
    return tuple(manifest for manifest in found if manifest is not None)
