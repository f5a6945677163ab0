"""``kdhpc evaluate``: scores of runs that have none, and AUROC against a second data set."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kdhpc.cli.main import main
from kdhpc.config.paths import RunPaths, packed_dir
from kdhpc.data.memory import in_memory, write_packed
from kdhpc.data.packed import PackedDataset
from kdhpc.data.progress import Progress
from kdhpc.data.readers.source import ArraySource, ArraySplit
from kdhpc.final.finished import open_finished
from kdhpc.final.result import read_result, write_result
from tests.final.test_scoring import auroc_reference, log_softmax, pair_reference, reference
from tests.report.conftest import INDEPENDENT
from tests.report.conftest import finished as finished
from tests.report.conftest import trained as trained

RUN = f"{INDEPENDENT}/seed0"
ONE = "runs/train/tiny-resnet8-one2/seed0"


def result_of(folder):
    return read_result(RunPaths(Path(folder)).result)


def forget_scores(folder):
    """As a run of an older version is."""
    path = RunPaths(Path(folder)).result
    write_result(dataclasses.replace(read_result(path), scores=None), path)
    assert "scores" not in json.loads(path.read_text())


def logits_of(folder, pixels):
    """Of each node, worked out apart: whole images of the run's size, no normalisation."""
    run = open_finished(Path(folder))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        return np.stack(
            [run.network(node, 2, torch.device("cpu"))(images).logits.numpy() for node in range(run.result.num_nodes)]
        )


def own_test_images():
    return PackedDataset.open(packed_dir("tiny")).test


@pytest.fixture
def second(finished, shared, tmp_path, monkeypatch):
    """A data set of grey images of another size and three classes; beside it one with the run's own test images."""
    data = tmp_path / "data"
    shutil.copytree(shared / "data", data)
    monkeypatch.setenv("KDHPC_DATA", str(data))
    rng = np.random.default_rng(7)
    brightness = np.linspace(40, 150, 24).reshape(24, 1, 1, 1)
    pixels = rng.normal(brightness, 40, (24, 12, 12, 1)).clip(0, 255).astype(np.uint8)
    labels = np.arange(24, dtype=np.int64) % 3
    half = ArraySplit(images=pixels, labels=labels)
    packed = in_memory(ArraySource(classes=("a", "b", "c"), train=half, test=half), origin="grey")
    write_packed(packed, data / "grey", Progress(sys.stderr))
    own = own_test_images()
    half = ArraySplit(images=np.array(own.images), labels=np.array(own.labels))
    packed = in_memory(ArraySource(classes=("a", "b"), train=half, test=half), origin="same")
    write_packed(packed, data / "same", Progress(sys.stderr))
    return pixels


def test_a_training_records_what_numpy_finds(finished):
    """Of a graph, and of ONE, whose ensemble is its gate's."""
    half = own_test_images()
    logits = logits_of(RUN, half.images[:])
    scores = result_of(RUN).scores
    for quality, own in zip((*scores.nodes, scores.ensemble), (*logits, logits.mean(axis=0)), strict=True):
        assert (quality.nll, quality.brier, quality.ece) == pytest.approx(reference(own, half.labels), abs=1e-5)
    assert (scores.disagreement, scores.mutual_kl) == pytest.approx(pair_reference(logits), abs=1e-5)
    assert scores.ood == ()
    single = result_of("runs/train/tiny-resnet8-independent1/seed0").scores
    assert single.nodes == (single.ensemble,)
    assert single.disagreement is single.mutual_kl is None


@pytest.mark.parametrize("folder", [RUN, ONE, "runs/train/tiny-resnet8-independent1-search/seed0"])
def test_evaluate_gives_an_older_run_what_its_training_would_have(finished, capsys, folder):
    before = result_of(folder)
    forget_scores(folder)
    assert main(["evaluate", folder]) == 0
    after = result_of(folder)
    assert dataclasses.replace(after, scores=None) == dataclasses.replace(before, scores=None)
    for then, now in zip(
        (*before.scores.nodes, before.scores.ensemble), (*after.scores.nodes, after.scores.ensemble), strict=True
    ):
        assert dataclasses.astuple(now) == pytest.approx(dataclasses.astuple(then), abs=1e-6)
    out, err = capsys.readouterr()
    assert f"{before.name}  0     {after.scores.ensemble.nll:.4f}" in out
    assert "is evaluated already" not in err
    content = RunPaths(Path(folder)).result.read_bytes()
    assert main(["evaluate", folder]) == 0
    assert "is evaluated already" in capsys.readouterr().err
    assert RunPaths(Path(folder)).result.read_bytes() == content


def test_evaluate_against_grey_images_of_another_size_and_other_classes(second, capsys):
    from PIL import Image

    assert main(["evaluate", RUN, "--ood", "grey"]) == 0
    out, err = capsys.readouterr()
    assert "grey is 12x12 grey: its images are made 16x16 colour" in err
    (found,) = result_of(RUN).scores.ood
    fitted = [Image.fromarray(one[..., 0]).convert("RGB").resize((16, 16), Image.Resampling.BICUBIC) for one in second]
    inside, outside = (
        logits_of(RUN, pixels)
        for pixels in (own_test_images().images[:], np.stack([np.asarray(one) for one in fitted]))
    )
    sure = [
        np.exp(log_softmax(np.stack([*logits, logits.mean(axis=0)]).astype(np.float64))).max(axis=2)
        for logits in (inside, outside)
    ]
    expected = [auroc_reference(own, other) for own, other in zip(*sure, strict=True)]
    assert abs(expected[-1] - 0.5) > 0.01  # Else it would say nothing.
    assert (*found.nodes, found.ensemble) == pytest.approx(expected, abs=0.003)
    assert (found.dataset, len(found.checksum)) == ("grey", 64)
    assert f"{found.ensemble:.4f}" in out


def test_evaluate_against_the_same_images_tells_nothing_apart_and_keeps_what_there_was(second, capsys):
    for name in ("same", "grey"):
        assert main(["evaluate", RUN, ONE, "--ood", name]) == 0
    for folder in (RUN, ONE):
        same, grey = result_of(folder).scores.ood
        assert (same.dataset, grey.dataset) == ("same", "grey")
        assert (*same.nodes, same.ensemble) == pytest.approx([0.5] * 3, abs=1e-6)
    capsys.readouterr()
    assert main(["results", "--columns", "auroc"]) == 2
    assert "auroc is there against several data sets: give one of auroc:grey, auroc:same" in capsys.readouterr().err
    assert main(["results", INDEPENDENT, "--columns", "auroc:same,node_auroc:same"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-2:] == ["-", "-"]  # Only one of two seeds has it.
    assert main(["results", RUN, "--columns", "auroc:same"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-1] == "0.5000"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([RUN, "--ood", "nowhere"], 1, "data set 'nowhere' is not prepared"),
        ([RUN, "--ood", "../x"], 2, "can be no folder"),
        ([RUN, "--ood", "tiny"], 2, "is scored on these images itself, give another data set"),
        (["nowhere"], 2, "nowhere is no folder"),
    ],
)
def test_evaluate_what_is_not_there_is_one_line(finished, capsys, arguments, code, said):
    assert main(["evaluate", *arguments]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_evaluate_goes_on_after_a_run_that_is_damaged(finished, capsys):
    for seed in (0, 1):
        forget_scores(f"{INDEPENDENT}/seed{seed}")
    path = RunPaths(Path(INDEPENDENT) / "seed0").weights(1)
    path.write_bytes(path.read_bytes()[:-9])
    assert main(["evaluate", INDEPENDENT]) == 2
    assert "not evaluated: " in capsys.readouterr().err
    assert result_of(f"{INDEPENDENT}/seed0").scores is None
    assert result_of(f"{INDEPENDENT}/seed1").scores is not None
