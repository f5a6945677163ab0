"""Searches over networks that are not kdhpc's own: tried before there is a study, by a process that has torch."""

import json

import pytest

from kdhpc.errors import UnknownStudyError
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy

_PROBABILITIES = "study.designs=[prob+,prob-]"
_NET = """
from torch import nn


def net(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Dropout2d(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))
"""


def test_search_over_a_network_of_timm(workspace, storage: Storage) -> None:
    command = ("search", "--study", "foreign", "study=tiny", "network=timm/test_byobnet", "--trials", "1")
    refused = workspace.run(*command)
    assert refused.returncode == 2
    assert "timm/test_byobnet makes no attention map on images of 16x16" in refused.stderr
    assert refused.stderr.count("\n") == 1
    with pytest.raises(UnknownStudyError):
        SharedStudy.open(storage, "foreign")
    done = workspace.run(*command, _PROBABILITIES)
    assert done.returncode == 0, done.stderr
    settings = json.loads(SharedStudy.open(storage, "foreign").definition.settings)
    assert settings["network"] == {"name": "timm/test_byobnet", "crops": None, "residual_attention": None}


def test_search_over_a_network_of_ones_own(workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    code = workspace.folder / "code"
    code.mkdir(exist_ok=True)
    (code / "own_net.py").write_text(_NET)
    command = ("search", "--study", "own", "study=tiny", "network=own_net:net", "--trials", "1")
    refused = workspace.run(*command)
    assert refused.returncode == 2
    assert "network 'own_net:net' cannot be imported (No module named 'own_net')" in refused.stderr
    path = [str(code), *filter(None, [workspace.environment.get("PYTHONPATH")])]
    monkeypatch.setitem(workspace.environment, "PYTHONPATH", ":".join(path))
    done = workspace.run(*command)
    assert done.returncode == 0, done.stderr
