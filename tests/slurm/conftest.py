"""A real Slurm for the tests of this folder."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.faults import TRIALS, Cluster
from tests.slurm.site import SEARCH, Site
from tests.workspace import make_workspace

TOOL = Path(__file__).parents[2] / "tools" / "slurm_sandbox"


@pytest.fixture(scope="session")
def slurm_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which sbatch, squeue and scancel talk to a Slurm of four nodes with a GPU each.

    It has SLURM_CONF, and nothing of a Slurm job that the tests may run in. Where the machine cannot have a Slurm
    (the sandbox's exit code 3) the test is skipped with the sandbox's own words, or fails under KDHPC_REQUIRE_SLURM=1.
    """
    folder = tmp_path_factory.mktemp("slurm")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH_"))}
    environment["KDHPC_SLURM_SANDBOX"] = str(folder)
    up = subprocess.run([TOOL, "up"], env=environment, capture_output=True, text=True)
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
    site = Site(shared, "runs", slurm_sandbox)
    assert site.run("db", "start", "--listen", "all").returncode == 0
    done = site.run("launch", "--study", "calm", *SEARCH, "--workers", "2", "--trials", str(TRIALS), "--wait")
    assert done.returncode == 0, done.stderr
    yield Cluster(shared=shared, site=site, undisturbed=site.course("calm"))
    site.close()
