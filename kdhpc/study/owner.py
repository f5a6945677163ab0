"""Who holds a slot: one process of one machine."""

import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass, fields

from kdhpc.processes import has_ended, process_space, process_start


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A worker's process: where people find it, and how its machine can tell whether it still lives."""

    host: str
    """Name of its machine."""
    pid: int
    """Process id there."""
    process_space: str
    """The boot of the machine and the container in which the process id is valid."""
    process_start: int
    """When the process began, in clock ticks since boot: its id may have gone to another process since."""
    job: str | None
    """The batch job that it is part of; None outside one."""
    token: str
    """Random, 32 hexadecimal digits: no other owner has it."""
    restarts: int = 0
    """How often the batch system had started that job before: an owner of the same job with fewer has ended."""

    @classmethod
    def current(cls, job: str | None = None, *, restarts: int = 0) -> "Owner":
        """This process."""
        pid = os.getpid()
        return cls(
            host=socket.gethostname(),
            pid=pid,
            process_space=process_space(),
            process_start=process_start(pid) or 0,
            job=job,
            token=uuid.uuid4().hex,
            restarts=restarts,
        )

    def is_followed_by(self, other: "Owner") -> bool:
        """Whether the other is of the same job, put back into the queue since: all that ran in it then has ended.

        Workers of the same run of a job, with equal ``restarts``, run side by side and do not follow each other.
        """
        return self.job is not None and self.job == other.job and self.restarts < other.restarts

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended, as far as can be seen from here: never True for another machine's."""
        return has_ended(self.pid, self.process_space, self.process_start)


def to_json(owner: Owner) -> str:
    """The owner as JSON text."""
    return json.dumps(asdict(owner))


def from_json(text: str) -> Owner:
    """The owner that a database row holds."""
    document = json.loads(text)
    return Owner(**{field.name: document[field.name] for field in fields(Owner)})
