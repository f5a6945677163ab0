"""The fault table."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.slurm.faults import FAULTS, Cluster

_AT_ONCE = 3


@pytest.fixture(scope="module")
def scenarios(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[dict[str, "Future[None]"]]:
    """All scenarios that were asked for, running beside each other: most of their time is waiting for Slurm."""
    asked = {item.callspec.params["name"] for item in request.session.items if item.path == request.path}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield {name: pool.submit(scenario, cluster) for name, scenario in FAULTS.items() if name in asked}


@pytest.mark.parametrize("name", FAULTS)
def test_study_ends_whole_after(scenarios: dict[str, "Future[None]"], name: str) -> None:
    scenarios[name].result()
