"""Weights that a study's nodes may start from: they count by what is in their file, wherever it lies."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from kdhpc.config.compose import compose_search
from kdhpc.config.paths import StudyPaths
from kdhpc.data.packed import PackedDataset
from kdhpc.errors import StudyMismatchError
from kdhpc.networks.build import build_network
from kdhpc.networks.weights import weights_digest
from kdhpc.searching.plan import study_definition
from kdhpc.searching.trial import StepKind, TrialSetting
from kdhpc.searching.trial_runner import TrialRunner
from kdhpc.searching.worker import trial_setting
from kdhpc.study.status import read_status
from kdhpc.training.runtime import resolve_runtime
from tests.study.made import SPLIT, make, scalar, take
from tests.training.memory_source import IMAGE_SIZE, NUM_CLASSES, MemoryEval, MemoryTrain


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
    config = compose_search(
        [
            *("study=tiny", "objective.unlearned=pretrained", f"objective.pretrained={weights}"),
            "device.precision=float32",
        ]
    )
    checksum = PackedDataset.open(workspace.folder / "data" / "tiny").checksum
    study = SimpleNamespace(definition=study_definition("tiny", config, checksum), split=SPLIT, uid="u")
    trial_setting(study, config)
    weights.write_bytes(b"second")
    with pytest.raises(StudyMismatchError, match=r"pretrained_weights was \S+, is \S+: give"):
        trial_setting(study, config)


def test_weights_that_are_replaced_while_a_worker_runs_are_not_trained_with(storage, tmp_path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.touch()
    config = compose_search(
        [
            *("study=quickstart", "network.crops=[3]", f"dataset.image_size={IMAGE_SIZE}", "training.batch_size=4"),
            *("device=cpu", "objective.unlearned=pretrained", f"objective.pretrained={weights}"),
        ]
    )

    def write_weights() -> None:
        network = build_network(config.network, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE)
        save_file(network.state_dict(), weights)

    write_weights()
    setting = TrialSetting(
        config=config,
        study_uid="u",
        paths=StudyPaths(tmp_path),
        data="d",
        pretrained_weights=weights_digest(config.objective),
        train=MemoryTrain(),
        evaluation=MemoryEval(),
        num_classes=NUM_CLASSES,
        runtime=resolve_runtime(config.device),
    )
    study = make(storage, target=2)
    first = TrialRunner(setting, torch.device("cpu"), lambda: False)
    first.take(take(study))
    assert isinstance(first.step(), StepKind)
    write_weights()
    second = TrialRunner(setting, torch.device("cpu"), lambda: False)
    second.take(take(study))
    with pytest.raises(StudyMismatchError, match=r"w\.safetensors is another file now than when the study was made"):
        second.step()
    assert scalar(storage, "SELECT attempts FROM kdhpc_slots WHERE slot = 1") == 0
    assert read_status(storage, "tiny").crashes == ()
