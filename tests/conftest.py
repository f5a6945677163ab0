"""A real PostgreSQL for all tests: started once, by those that ask for it, and stopped by what started it."""

import gc
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from kdhpc.server.control import ServerOptions, start, stop
from kdhpc.server.endpoint import read_endpoint
from kdhpc.study.storage import Storage
from tests.databases import delete_rows
from tests.faults import FaultyDisk, compiled_faultfs, faulty_disk

# For torch, here and in all processes that tests start: two test processes share the cores, and threads that wait for
# each other would take most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# `device.precision=auto` is float32 in all tests, as on a CPU without AMX, whatever this machine has.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")


_LONGEST = ("slurm", "tools", "training", "searching")
_HALF_OF_SLURM = ("test_faults", "test_sweep")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no process is left with one at the end; on Slurm before all: they take longest."""

    def turn(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return _LONGEST.index(folder) if folder in _LONGEST else len(_LONGEST)

    items.sort(key=turn)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """How several processes share the tests: a whole file each, but all on Slurm are two halves with a Slurm each."""

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = Path(super()._split_scope(nodeid))
            if file.parent.name != "slurm":
                return str(file)
            return str(file.parent / ("one half" if file.stem in _HALF_OF_SLURM else "the other"))

    return Scheduling(config, log)


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> None:
    """Garbage is looked for only in what a file's own tests have made: through all of torch it takes a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command that runs in the tests' own process sets up logging; the next test shall not hear of it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def environment_as_before() -> Iterator[None]:
    """What a command or a worker sets in the tests' own process, as a GPU of its own, no other test shall see."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an embedded server, as ``$KDHPC_RUNS/db``; a test may restart it and must leave it running."""
    folder = tmp_path_factory.mktemp("server") / "runs" / "db"
    endpoint = start(folder, ServerOptions()).endpoint
    # The machine will not lose its power during the tests, and its disk may be busy.
    with (folder / "data" / "postgresql.conf").open("a") as settings:
        settings.write("fsync = off\n")
    assert endpoint.pid is not None
    os.kill(endpoint.pid, signal.SIGHUP)
    yield folder
    assert stop(folder).was_running


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's folder in which one was started and stopped: a copy is quicker made than a new one."""
    template = tmp_path_factory.mktemp("template") / "db"
    start(template, ServerOptions())
    stop(template)
    return template


@pytest.fixture
def storage_url(server_folder: Path) -> str:
    """A URL of a database without studies."""
    endpoint = read_endpoint(server_folder)
    assert endpoint is not None
    url = endpoint.url(server_folder).render_as_string()
    delete_rows(url)
    return url


@pytest.fixture
def storage(storage_url: str, server_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """A database without studies, found as a command finds it: by ``$KDHPC_RUNS``."""
    monkeypatch.delenv("KDHPC_STORAGE", raising=False)
    monkeypatch.setenv("KDHPC_RUNS", str(server_folder.parent))
    storage = Storage.connect()
    yield storage
    storage.close()


@pytest.fixture(scope="session")
def faultfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of the file system that fails on demand."""
    return compiled_faultfs(tmp_path_factory.mktemp("faultfs"))


@pytest.fixture
def disk(faultfs: Path, tmp_path: Path) -> Iterator[FaultyDisk]:
    """A file system that fails on demand, mounted."""
    with faulty_disk(faultfs, tmp_path / "faulty") as disk:
        yield disk
