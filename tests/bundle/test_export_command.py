"""``kdhpc export``: what it says, what it refuses, and that nothing half-written is left."""

import importlib.util
import json
import logging
import shutil

import pytest
import torch

from kdhpc.bundle import export as exporting
from kdhpc.bundle.programs import write_torch
from kdhpc.cli.main import main
from kdhpc.config.paths import RunPaths
from kdhpc.errors import BundleError, ConfigError, StorageError
from kdhpc.final.result import read_result
from tests.bundle.conftest import export


def said(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    """The one line that a command says when it refuses."""
    try:
        returned = main(["export", *argv])
    except SystemExit as exc:
        returned = exc.code
    out, err = capsys.readouterr()
    assert (returned, out, err.count("\n")) == (code, "", 1), err
    return err


def test_command_prints_the_files_and_what_the_check_found(runs, capsys):
    argv = ("export", "runs/train/mixed", "--format", "safetensors", "--out", "new/bundle", "--images", "7")
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert "new/bundle/config.json" in out.splitlines()
    needed, checked = err.splitlines()
    assert needed.endswith("whoever uses this bundle needs kdhpc: --format torch and onnx do without")
    assert checked == "kdhpc: checked on 7 test images: it predicts what the run does, to the bit"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("mine", "--format", "torch"), ("mine is no folder", "kdhpc export-best")),
        (("mixed", "--format", "torch"), ("did you mean runs/train/mixed?",)),
        (("x", "--study", "mine", "--format", "torch"), ("kdhpc export-best --study mine",)),
        (("runs/train/mixed", "--format", "torhc"), ("did you mean 'torch'?",)),
        (("runs/train/mixed", "--format", "torch", "--node", "3"), ("--node 3 is not allowed", "nodes 1 to 2")),
        (("runs/train/mixed", "--format", "torch", "--seed", "4"), ("--seed 4 is not allowed", "has 0")),
        (("runs/train/mixed/seed0", "--format", "torch", "--seed", "4"), ("is the run of seed 0",)),
        (("runs/train/branched", "--format", "torch", "--node", "1"), ("a run of ONE", "leave --node 1 out")),
        (("runs/train/branched", "--format", "timm"), ("no network with branches",)),
        (("runs/train/mixed", "--format", "timm"), ("timm does not know node 1 (abn_resnet8), node 2 (resnet8)",)),
        (("runs", "--format", "torch"), ("runs holds no run",)),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_leaves_nothing(runs, argv, words, capsys, tmp_path):
    line = said(capsys, *argv, "--out", "new/bundle")
    assert all(word in line for word in words), line
    assert not (tmp_path / "new").exists()


def test_several_seeds_are_named_and_a_study_is_told_from_a_run(runs, capsys, tmp_path):
    shutil.copytree(runs / "mixed/seed0", runs / "mixed/seed11")
    assert "has the seeds 0, 11: choose one with --seed" in said(
        capsys, "runs/train/mixed", "--format", "torch", "--out", "b"
    )
    (runs.parent / "mine" / "trials").mkdir(parents=True)
    for path in ("mine", "runs/mine"):
        assert "export-best --study mine" in said(capsys, path, "--format", "torch", "--out", "b")
    (runs / "mixed/seed0/result.json").unlink()
    assert "is not done" in said(capsys, "runs/train/mixed/seed0", "--format", "torch", "--out", "b")


def test_missing_package_is_named_with_its_extra(runs, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    line = said(capsys, "runs/train/mixed", "--format", "onnx", "--out", "b")
    assert "--format onnx needs onnxscript, which is not installed: pip install 'kdhpc[onnx]'" in line


def test_run_that_diverged_is_refused(runs, capsys):
    path = RunPaths(runs / "mixed/seed0").result
    document = json.loads(path.read_text(encoding="utf-8"))
    document |= {"node_accuracies": None, "ensemble_accuracy": None, "diverged_epoch": 1, "diverged": "a loss is NaN"}
    path.write_text(json.dumps(document), encoding="utf-8")
    assert read_result(path).divergence is not None
    assert "diverged at epoch 1" in said(capsys, "runs/train/mixed", "--format", "torch", "--out", "b")


def test_networks_own_code_is_not_imported_unasked(runs, capsys):
    config = RunPaths(runs / "rotated/seed0").config
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("name: resnet8", "name: evil:Net"), encoding="utf-8")
    line = said(capsys, "runs/train/rotated", "--format", "torch", "--out", "b")
    assert "imported only if you name it: give --network module:Name" in line


def test_bundle_that_predicts_something_else_never_appears(runs, tmp_path, monkeypatch):
    def worse(subject, folder):
        with torch.no_grad():
            bias = next(p for name, p in subject.networks.named_parameters() if name.endswith("fc.bias"))
            bias += 3e-4
            write_torch(subject, folder)
            bias -= 3e-4

    monkeypatch.setitem(exporting._WRITERS, "torch", worse)
    with pytest.raises(BundleError, match=r"on 5 test images, .* other logits than the run \(by 3"):
        export(runs / "mixed/seed0", "torch", tmp_path / "a/b/bundle")
    assert not (tmp_path / "a").exists()


def test_run_without_its_images_is_checked_on_generated_ones(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDHPC_DATA", str(tmp_path / "none"))
    assert main(["export", "runs/train/mixed", "--format", "safetensors", "--out", "b", "--images", "3"]) == 0
    assert "checked on 3 generated images (data set 'tiny' is not prepared" in capsys.readouterr().err
    card = (tmp_path / "b/README.md").read_text(encoding="utf-8")
    assert "3 generated images" in card
    assert "the run's own were not there" in card


def test_unchanged_bundle_is_replaced_and_nothing_else(runs, tmp_path):
    out = tmp_path / "bundle"
    out.mkdir()  # An empty folder is as good as none.
    export(runs / "theirs/seed0", "timm", out)
    export(runs / "mixed/seed0", "safetensors", out)
    assert not (out / "node1").exists(), "of the earlier bundle"
    with (out / "README.md").open("a", encoding="utf-8") as card:
        card.write("licence: mine\n")
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(ConfigError, match=r"README\.md is not as it was exported"):
        export(runs / "mixed/seed0", "safetensors", out)
    assert sorted(path.name for path in out.iterdir()) == before
    with pytest.raises(ConfigError, match="it is no bundle"):
        export(runs / "mixed/seed0", "safetensors", runs)


def test_graph_whose_plugin_is_not_here_is_kept_and_not_drawn(runs, tmp_path, caplog):
    path = RunPaths(runs / "mixed/seed0").graph
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, "plugins": {"my_designs": "0123456789ab"}}), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        export(runs / "mixed/seed0", "safetensors", tmp_path / "b")
    assert "my_designs" in caplog.text
    assert not (tmp_path / "b/graph.svg").exists()
    assert json.loads((tmp_path / "b/graph.json").read_text(encoding="utf-8"))["plugins"]
    assert "The graph is not drawn" in (tmp_path / "b/README.md").read_text(encoding="utf-8")


def test_disk_that_is_full_leaves_nothing(runs, disk):
    disk.rules("write .node2 err=ENOSPC")
    with pytest.raises(StorageError, match="No space left"):
        export(runs / "mixed/seed0", "safetensors", disk.path / "bundle")
    assert list(disk.backing.iterdir()) == []
    disk.rules()
    export(runs / "mixed/seed0", "safetensors", disk.path / "bundle")
