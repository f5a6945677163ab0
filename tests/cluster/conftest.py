"""A real PostgreSQL, and a tiny data set: searches run here as users run them."""

from collections.abc import Iterator

import pytest

from tests.workspace import Workspace, make_workspace


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    workspace = make_workspace(tmp_path_factory.mktemp("search"))
    started = workspace.run("db", "start")
    assert started.returncode == 0, started.stderr
    yield workspace
    workspace.close()
