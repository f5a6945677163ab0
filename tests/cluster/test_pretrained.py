"""Weights that a study's nodes may start from: they count by what is in their file, wherever it lies."""

from types import SimpleNamespace

import pytest

from kdhpc.cluster.search import study_definition
from kdhpc.cluster.worker import trial_setting
from kdhpc.config.compose import compose_search
from kdhpc.data.packed import PackedDataset
from kdhpc.errors import StudyMismatchError
from tests.study.made import SPLIT


def test_search_reopened_with_other_content_in_the_pretrained_weights_is_refused(workspace) -> None:
    few = (
        "dataset=fashion_mnist",
        "dataset.name=tiny",
        "dataset.image_size=16",
        "network=resnet8",
        "network.crops=[3]",
    )
    trained = workspace.run(
        *("train", "--graph", "independent", "--nodes", "1", "--seeds", "0..1", *few),
        *("training=short", "training.epochs=1", "run.name=teacher"),
    )
    assert trained.returncode == 0, trained.stderr
    first, second = (workspace.folder / "runs" / "train" / "teacher" / f"seed{seed}" for seed in (0, 1))
    copy = workspace.folder / "copy.safetensors"
    copy.write_bytes((first / "node1.safetensors").read_bytes())
    command = ("search", "--study", "taught", "study=tiny", "--trials", "1", "objective.unlearned=pretrained")
    made = workspace.run(*command, f"objective.pretrained={first / 'node1.safetensors'}")
    assert made.returncode == 0, made.stderr
    assert workspace.run(*command, f"objective.pretrained={copy}").returncode == 0
    copy.write_bytes((second / "node1.safetensors").read_bytes())
    changed = workspace.run(*command, f"objective.pretrained={copy}")
    assert changed.returncode == 1
    assert "pretrained_weights was " in changed.stderr


def test_worker_finds_other_content_in_the_pretrained_weights(workspace, monkeypatch) -> None:
    """A job that Slurm starts again reads its launch's config, and the file as it is by then."""
    for name in ("KDHPC_DATA", "KDHPC_CONFIG_DIR"):
        monkeypatch.setenv(name, workspace.environment[name])
    weights = workspace.folder / "w.safetensors"
    weights.write_bytes(b"first")
    config = compose_search(["study=tiny", "objective.unlearned=pretrained", f"objective.pretrained={weights}"])
    checksum = PackedDataset.open(workspace.folder / "data" / "tiny").checksum
    study = SimpleNamespace(definition=study_definition("tiny", config, checksum), split=SPLIT, uid="u")
    trial_setting(study, config)
    weights.write_bytes(b"second")
    with pytest.raises(StudyMismatchError, match=r"pretrained_weights was \S+, is \S+$"):
        trial_setting(study, config)
