"""PgBouncer for tests: installed where that can be done, else the test is skipped; or fails under
KDHPC_REQUIRE_PGBOUNCER=1."""

import os

import pytest

from tests.packages import install
from tools.benchmarks.pooler import pgbouncer_program


def require_pgbouncer() -> None:
    """Have PgBouncer here."""
    if pgbouncer_program() is not None:
        return
    problem = install(["pgbouncer"])
    if problem is None:
        return
    if os.environ.get("KDHPC_REQUIRE_PGBOUNCER") == "1":
        pytest.fail(f"PgBouncer: {problem}")
    pytest.skip(f"PgBouncer: {problem}")
