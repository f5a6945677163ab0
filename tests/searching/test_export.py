"""Exported graphs: read back as they were, with where they come from."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from kdhpc import __version__
from kdhpc.errors import StorageError
from kdhpc.graph.serial import read_stored
from kdhpc.graph.space import SearchSpace, canonical, graph_key
from kdhpc.searching.export import export_trials
from kdhpc.study.definition import StudyDefinition
from kdhpc.study.status import TrialRecord
from tests.faults import FaultyDisk

_SPACE = SearchSpace(num_nodes=3)
_DEFINITION = StudyDefinition(
    name="three",
    space=_SPACE,
    seed=5,
    pruner="median",
    sampler="random",
    max_attempts=3,
    last_epoch=300,
    network="abn_resnet18",
    dataset="stanford_dogs",
    dataset_checksum="0123abcd",
    settings=json.dumps(
        {"training": {"epochs": 300, "milestones": [150, 225]}, "dataset": {"flip": True, "mean": None}}
    ),
    precision="bf16",
)
_TRIALS = tuple(
    TrialRecord(
        number=number,
        value=value,
        graph=canonical(_SPACE.graph(5, number)),
        worked_s=60.0,
        run={"device": "NVIDIA H200", "kdhpc_commit": "0123-dirty"},
    )
    for number, value in ((17, 73.5), (4, 72.25))
)


def test_export_trials_graph_reads_back_with_its_provenance(tmp_path: Path) -> None:
    exported, _ = export_trials(_DEFINITION, _TRIALS, tmp_path / "deep" / "export")
    assert [files.graph.name for files in exported] == ["three-best.json", "three-trial17.json", "three-trial4.json"]
    best, stored, other = (read_stored(files.graph) for files in exported)
    assert best == stored
    assert (stored.graph, other.graph) == tuple(trial.graph for trial in _TRIALS)
    expected = {
        "study": "three",
        "trial": 17,
        "value": 73.5,
        "graph_key": graph_key(_TRIALS[0].graph),
        "dataset": "stanford_dogs",
        "network": "abn_resnet18",
        "seed": 5,
        "precision": "bf16",
        "config.training.epochs": 300,
        "config.training.milestones": "[150, 225]",
        "config.dataset.flip": "true",
        "config.dataset.mean": "null",
        "kdhpc_version": __version__,
        "trained.device": "NVIDIA H200",
        "trained.kdhpc_commit": "0123-dirty",
    }
    assert expected.items() <= stored.provenance.items()


def test_export_trials_of_a_study_with_a_dot_in_its_name_keep_it(tmp_path: Path) -> None:
    exported, _ = export_trials(replace(_DEFINITION, name="v1.2"), _TRIALS, tmp_path)
    assert [files.png.name for files in exported] == ["v1.2-best.png", "v1.2-trial17.png", "v1.2-trial4.png"]


def test_export_trials_draws_each_graph(tmp_path: Path) -> None:
    exported, _ = export_trials(_DEFINITION, _TRIALS, tmp_path)
    for files in exported:
        assert files.png.read_bytes().startswith(b"\x89PNG")
        assert "<svg" in files.svg.read_text()
    assert "73.50" in exported[0].svg.read_text()


def test_export_trials_table_ranks_and_holds_every_parameter(tmp_path: Path) -> None:
    _, table = export_trials(_DEFINITION, _TRIALS, tmp_path)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["rank"], row["trial"], row["value"]) for row in rows] == [("1", "17", "73.5"), ("2", "4", "72.25")]
    parameters = {name: rows[1][name] for name in (parameter.name for parameter in _SPACE.parameters())}
    assert canonical(_SPACE.from_parameters(parameters)) == _TRIALS[1].graph


def test_export_trials_again_replaces_what_was_there(tmp_path: Path) -> None:
    first, _ = export_trials(_DEFINITION, _TRIALS, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    export_trials(_DEFINITION, _TRIALS, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert len(first) == 3


def test_export_trials_names_the_study_by_what_no_other_has_and_tells_what_is_another_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exported, _ = export_trials(_DEFINITION, _TRIALS, tmp_path, study_uid="a" * 32)
    assert read_stored(exported[0].graph).provenance["study_uid"] == "a" * 32
    (tmp_path / "three-trial9.json").write_text("of nobody")
    export_trials(_DEFINITION, _TRIALS, tmp_path, study_uid="a" * 32)
    assert caplog.messages == []
    export_trials(_DEFINITION, _TRIALS[:1], tmp_path, study_uid="b" * 32)
    (said,) = caplog.messages
    others = ", ".join(str(tmp_path / f"three-trial{number}.json") for number in (17, 4))
    assert said == f"of another study of this name, now deleted: {others}"


@pytest.mark.parametrize("file", ["three-best.json", "three-best.svg", "three-best.png", "three-best.csv"])
def test_export_trials_on_a_disk_that_refuses_keeps_what_was_there(disk: FaultyDisk, file: str) -> None:
    export_trials(_DEFINITION, _TRIALS, disk.path)
    before = {path.name: path.read_bytes() for path in disk.path.iterdir()}
    disk.rules(f"write,flush,fsync .{file} late=EDQUOT")
    with pytest.raises(StorageError, match=f"{file} cannot be written: Disk quota exceeded"):
        export_trials(_DEFINITION, _TRIALS[1:], disk.path)
    disk.rules()
    assert (disk.path / file).read_bytes() == before[file]
    assert {path.name for path in disk.path.iterdir()} == before.keys()
