"""Whether the database can be reached from here."""

import os
from collections.abc import Iterator

from kdhpc.config.paths import server_dir
from kdhpc.doctor.finding import Finding, absent, fault, ok
from kdhpc.errors import DatabaseError, KdhpcError
from kdhpc.server.address import EmbeddedAddress
from kdhpc.server.postgres import installed_programs
from kdhpc.study.status import server_version, study_names
from kdhpc.study.storage import Storage


def check_database() -> Iterator[Finding]:
    """PostgreSQL: the programs of an embedded one, and the server in use."""
    try:
        yield ok("PostgreSQL programs", str(installed_programs()))
    except DatabaseError as exc:
        yield absent("PostgreSQL programs", str(exc))
    is_given = bool(os.environ.get("KDHPC_STORAGE"))
    if not is_given and not server_dir().exists():
        yield absent("database", f"none was started in {server_dir()}", "kdhpc db start, or kdhpc search")
        return
    try:
        yield _reached()
    except KdhpcError as exc:
        # One that was stopped in order is no fault: it is started when it is needed. One that was lost is.
        is_stopped = not is_given and EmbeddedAddress(server_dir()).is_stopped
        yield (absent if is_stopped else fault)("database", str(exc))


def _reached() -> Finding:
    storage = Storage.connect(first_contact_s=5.0, patience_s=5.0)
    try:
        version, studies = server_version(storage), study_names(storage)
    finally:
        storage.close()
    shown = f"studies: {', '.join(studies)}" if studies else "no studies yet"
    return ok("database", f"PostgreSQL {version} at {storage.address.shown}, {shown}")
