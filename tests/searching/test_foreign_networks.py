"""Searches over networks that are not kdhpc's own: tried before there is a study, by a process that has torch."""

from pathlib import Path

import pytest
import torch

from kdhpc.config.compose import compose_search
from kdhpc.errors import UnknownStudyError
from kdhpc.searching.plan import space_compares_maps
from kdhpc.study.study import SharedStudy
from tests.searching.test_trial import ReportingTrial, begin, setting_of
from tests.training.test_loop import assert_same_state

_NET = """
from torch import nn


def net(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Dropout2d(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))
"""


def test_search_over_a_network_of_ones_own(workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its features are compared, and its dropout draws."""
    code = workspace.folder / "code"
    code.mkdir(exist_ok=True)
    (code / "own_net.py").write_text(_NET)
    command = ("search", "--study", "own", "study=tiny", "network=own_net:net", "--trials", "1")
    refused = workspace.run(*command)
    assert refused.returncode == 2
    assert "network 'own_net:net' cannot be imported (No module named 'own_net')" in refused.stderr
    with workspace.storage() as storage, pytest.raises(UnknownStudyError):
        SharedStudy.open(storage, "own")
    path = [str(code), *filter(None, [workspace.environment.get("PYTHONPATH")])]
    monkeypatch.setitem(workspace.environment, "PYTHONPATH", ":".join(path))
    done = workspace.run(*command)
    assert done.returncode == 0, done.stderr


def test_search_that_compares_maps_of_a_network_that_has_none_is_refused(workspace) -> None:
    refused = workspace.run("search", "--study", "none", "study=tiny", "network=timm/test_byobnet")
    assert refused.returncode == 2
    assert "timm/test_byobnet makes no attention map on images of 16x16" in refused.stderr
    assert "study.designs=[prob+,prob-]" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_trial_over_a_network_of_timm_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    ours = ("network=timm/test_byobnet", "network.crops=null", "study.designs=[prob+,prob-]")
    torch.set_num_threads(1)
    whole = begin(setting_of(tmp_path / "whole", *ours), 3, ReportingTrial(()))
    begin(setting_of(tmp_path / "pieces", *ours), 2, ReportingTrial(()))
    pieces = begin(setting_of(tmp_path / "pieces", *ours), 1, ReportingTrial(()))
    assert_same_state(pieces.state(), whole.state())


@pytest.mark.parametrize(
    ("overrides", "compares"),
    [
        ((), True),
        (("study.designs=[prob+,prob-]",), False),
        (("study.gates=[cutoff]",), False),
        (("study.num_nodes=1",), False),
    ],
)
def test_space_compares_maps_where_a_graph_of_it_may(overrides: tuple[str, ...], compares: bool) -> None:
    assert space_compares_maps(compose_search(["study=quickstart", *overrides])) is compares
