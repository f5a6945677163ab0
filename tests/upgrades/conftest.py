"""What earlier versions left behind, put where it was: in a folder with the same data set, and in a database."""

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from kdhpc.config.schema import SearchConfig, TrainConfig, TrainingConfig
from kdhpc.study.storage import Storage
from tests.databases import drop_tables
from tests.upgrades.place import expire_leases, make_place, restore_database, restore_files, what_rounds
from tests.workspace import Workspace

FIXTURES = Path(__file__).parent / "fixtures"
VERSIONS = sorted(path.parent.name for path in FIXTURES.glob("*/facts.json"))


@dataclass(frozen=True, kw_only=True)
class Old:
    """What a version left behind, restored."""

    place: Workspace
    """Where."""
    facts: dict
    """What the version said of it."""
    fixture: Path
    """Its folder in the repository."""

    @property
    def rounds_as_then(self) -> bool:
        """Whether trainings come to the same numbers here, to the last bit."""
        here = what_rounds()
        return all(self.facts[key] == here[key] for key in here)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Data and configs of all tests here."""
    return make_place(tmp_path_factory.mktemp("shared"))


@pytest.fixture(params=VERSIONS)
def old(
    request: pytest.FixtureRequest, shared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Old]:
    """The files of a version, for commands that run in this process and in others."""
    fixture = FIXTURES / request.param
    place = Workspace(tmp_path, os.environ)
    place.environment |= {name: shared.environment[name] for name in ("KDHPC_DATA", "KDHPC_CONFIG_DIR")}
    restore_files(fixture, place)
    for name in [name for name in os.environ if name.startswith("KDHPC_")]:
        monkeypatch.delenv(name)
    for name, value in place.environment.items():
        if name.startswith("KDHPC_"):
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield Old(place=place, facts=json.loads((fixture / "facts.json").read_text()), fixture=fixture)
    torch.set_num_threads(threads)


@pytest.fixture
def own_url(storage: Storage, storage_url: str) -> Iterator[str]:
    """A database without tables; the next test finds one without those of an old version."""
    drop_tables(storage_url)
    yield storage_url
    drop_tables(storage_url)


@pytest.fixture
def old_study(own_url: str, old: Old, monkeypatch: pytest.MonkeyPatch) -> Old:
    """The study of a version as well, in tables that were moved up."""
    restore_database(own_url, (old.fixture / "study.sql").read_text())
    expire_leases(own_url)
    old.place.environment["KDHPC_STORAGE"] = own_url
    monkeypatch.setenv("KDHPC_STORAGE", own_url)
    upgraded = old.place.run("db", "upgrade", "--yes")
    assert upgraded.returncode == 0, upgraded.stderr
    return old


@pytest.fixture
def with_new_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """This version has the key ``training.toy``, which no other has, with the default 1."""
    toy = dataclasses.make_dataclass(
        "ToyConfig", [("toy", int, dataclasses.field(default=1))], bases=(TrainingConfig,), frozen=True, kw_only=True
    )
    for config in (SearchConfig, TrainConfig):
        monkeypatch.setitem(config.__annotations__, "training", toy)
