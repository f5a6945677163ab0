"""The endpoint file: where the embedded server can be reached right now.

It is rewritten at each start, so that workers which lose their connection find the server again on its new port. It
holds no password: that is in a libpq password file beside it.
"""

from dataclasses import asdict, dataclass, fields
from ipaddress import ip_address
from pathlib import Path

from sqlalchemy.engine import URL

from kdhpc.errors import DatabaseError, StorageError
from kdhpc.files.json_text import parse_json, strict_json
from kdhpc.files.reading import read_whole
from kdhpc.files.writing import write_whole
from kdhpc.server import libpq

_FORMAT = "kdhpc-endpoint"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server's address, and the process behind it."""

    host: str
    """Name or address that workers connect to."""
    port: int
    """TCP port."""
    database: str
    """Name of the database."""
    user: str
    """Role of the workers."""
    passfile: str
    """The libpq password file, by its name in the endpoint file's folder."""
    node: str
    """Host name of the machine that runs the server."""
    pid: int | None
    """Process id of the server there; None after a clean stop."""
    started: str
    """When the server was started, ISO 8601 in UTC."""
    job: str | None = None
    """The batch job that the server is part of; None: it is not part of one."""
    token: str = ""
    """Token of the server's start (`ServerRecord.token`); empty: an older kdhpc started it."""

    def url(self, folder: Path) -> URL:
        """The SQLAlchemy URL, without a password. With it, any client insists on authentication by SCRAM."""
        return URL.create(
            "postgresql+psycopg2",
            username=self.user,
            host=self.host,
            port=self.port,
            database=self.database,
            query={"passfile": str(folder / self.passfile), **libpq.SETTINGS},
        )


def is_loopback(host: str) -> bool:
    """Whether a name or address is one that only its own machine can reach."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def endpoint_path(folder: Path) -> Path:
    """The endpoint file of a server's folder."""
    return folder / "endpoint.json"


def not_for_this_user(path: Path) -> str:
    """The error about a server's folder that belongs to somebody else."""
    return f"{path} may not be read by this user: name a folder of your own in KDHPC_RUNS, or a server in KDHPC_STORAGE"


def read_endpoint(folder: Path) -> Endpoint | None:
    """The endpoint of a server's folder; None where no server was ever started.

    Raises:
        DatabaseError: the file is there, and cannot be understood or is not for this user.
    """
    path = endpoint_path(folder)
    try:
        document = parse_json(read_whole(path))
        if not isinstance(document, dict) or (document.pop("format"), document.pop("version")) != (_FORMAT, _VERSION):
            raise ValueError(f"it is not of format {_FORMAT}, version {_VERSION}")
        given = {"job": None, "token": "", **document}
        return Endpoint(**{field.name: given[field.name] for field in fields(Endpoint)})
    except FileNotFoundError:
        return None
    except StorageError as exc:
        if isinstance(exc.__cause__, PermissionError):
            raise DatabaseError(not_for_this_user(path)) from exc
        raise DatabaseError(str(exc)) from exc
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise DatabaseError(f"{path} cannot be read ({exc}): delete it, then `kdhpc db start` writes it anew") from exc


def write_endpoint(folder: Path, endpoint: Endpoint) -> None:
    """Replace the endpoint file in one step.

    Raises:
        StorageError: the file system refuses.
    """
    document = {"format": _FORMAT, "version": _VERSION, **asdict(endpoint)}
    write_whole(endpoint_path(folder), strict_json(document, indent=2), "\n")
