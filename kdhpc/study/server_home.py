"""The folder of the embedded server: private, because the password lies in it and PostgreSQL writes to it."""

import os
from pathlib import Path

from kdhpc.errors import DatabaseError, StorageError
from kdhpc.folders import private_folder, refuse_planted, refuse_strangers
from kdhpc.study.endpoint import not_for_this_user
from kdhpc.study.postgres import nobody


def checked_home(folder: Path) -> Path:
    """A server's folder, links resolved, if it is this user's and nobody else has put anything into it.

    A folder that is not there passes.

    Raises:
        DatabaseError: it is another user's, or holds something of another user's.
    """
    try:
        refuse_strangers(folder)
        refuse_planted(folder, but=_accounts())
    except FileNotFoundError:
        pass
    except StorageError as exc:
        if isinstance(exc.__cause__, PermissionError):
            raise DatabaseError(not_for_this_user(folder)) from exc
        raise DatabaseError(str(exc)) from exc
    return folder.resolve()


def made_home(folder: Path) -> Path:
    """A server's folder, links resolved; made where it is missing, and taken from all others.

    Raises:
        StorageError: the file system refuses, or it is another user's, or holds something of another user's.
    """
    # PostgreSQL does not run as root: the account that it has then must come through to its data.
    private_folder(folder, group=nobody()[1] if os.geteuid() == 0 else None)
    refuse_planted(folder, but=_accounts())
    return folder.resolve()


def _accounts() -> tuple[int, ...]:
    """Whose folders may lie in it: PostgreSQL's account where root starts it."""
    return (nobody()[0],) if os.geteuid() == 0 else ()
