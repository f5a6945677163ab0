"""A real Slurm for the tests of this folder."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.faults import TRIALS, Cluster
from tests.slurm.site import SEARCH, Site
from tests.workspace import make_workspace

# Slurm's own waits and a busy machine: what hangs is seen by the tests' own patience.
TIMEOUT_S = 1500
TOOL = Path(__file__).parents[2] / "tools" / "slurm_sandbox"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def slurm_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which sbatch, squeue and scancel talk to a Slurm of four nodes with a GPU each.

    It has SLURM_CONF, and nothing of a Slurm job that the tests may run in. Where the machine cannot have a Slurm
    (the sandbox's exit code 3) the test is skipped with the sandbox's own words, or fails under KDHPC_REQUIRE_SLURM=1.
    """
    folder = tmp_path_factory.mktemp("slurm")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH_"))}
    environment["KDHPC_SLURM_SANDBOX"] = str(folder)
    # A requeued job waits for long enough to be seen waiting.
    up = subprocess.run([TOOL, "up", "--requeue-delay", "30"], env=environment, capture_output=True, text=True)
    if up.returncode == 3 and os.environ.get("KDHPC_REQUIRE_SLURM") != "1":
        pytest.skip(up.stderr.strip())
    assert up.returncode == 0, up.stderr
    yield environment | {"SLURM_CONF": f"{folder}/etc/slurm.conf"}
    down = subprocess.run([TOOL, "down"], env=environment, capture_output=True, text=True)
    assert down.returncode == 0, down.stderr


@pytest.fixture(scope="session")
def cluster(slurm_sandbox: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A site with a database on the login node, and what the tests' search comes to when nothing happens to it."""
    shared = make_workspace(tmp_path_factory.mktemp("site"), slurm_sandbox)
    (shared.folder / ".venv").symlink_to(sys.prefix)  # The scripts are submitted from there.
    site = Site(shared, "runs", slurm_sandbox, has_own_database=True)
    assert site.run("db", "start", "--listen", "all").returncode == 0
    done = site.run("launch", "--study", "calm", *SEARCH, "--workers", "2", "--trials", str(TRIALS), "--wait")
    assert done.returncode == 0, done.stderr
    with site:
        yield Cluster(shared=shared, site=site, undisturbed=site.course("calm"))
