"""Pairs of networks: the paper's Eq. 1 and 2, the correlation of the two, and the command."""

import csv
import dataclasses
import io
import shutil
import statistics
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from kdhpc.cli.main import main
from kdhpc.config.paths import RunPaths
from kdhpc.config.schema import DeviceConfig
from kdhpc.data.progress import Progress
from kdhpc.final.finished import find_finished
from kdhpc.final.result import read_result, write_result
from kdhpc.report import pairs as pairs_module
from kdhpc.report.correlation import Pairs, fit_line, pairs_table
from kdhpc.report.pairs import compare_pairs
from kdhpc.report.predictions import Predictions, choose_networks, read_predictions, runtime_of
from kdhpc.training.runtime import resolve_runtime
from tests.report.conftest import INDEPENDENT, svg_texts
from tests.report.paper_numbers import accuracy, answers_of, gain, mutual_kl

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("trained_in", "asked_for", "dtype"),
    [("float32", "auto", None), ("bf16", "auto", torch.bfloat16), (None, "bf16", torch.bfloat16)],
)
def test_networks_run_in_the_precision_that_they_were_trained_in(caplog, trained_in, asked_for, dtype):
    run = SimpleNamespace(
        origin="runs/x",
        result=SimpleNamespace(precision=trained_in),
        config=SimpleNamespace(device=DeviceConfig(precision=asked_for)),
    )
    assert runtime_of(run, CPU).autocast_dtype is dtype
    assert not caplog.text


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_networks_whose_precision_the_device_does_not_have_run_in_float32_and_that_is_told(caplog, precision):
    run = SimpleNamespace(origin="runs/x", result=SimpleNamespace(precision=precision))
    assert runtime_of(run, CPU).autocast_dtype is None
    said = (
        f"runs/x was trained in {precision}: its networks run in float32 here (device.precision={precision} needs CUDA"
    )
    assert said in caplog.text


@pytest.mark.parametrize(("asked", "computes_in"), [("auto", None), ("bf16", torch.bfloat16)])
def test_networks_of_a_result_without_a_precision_run_in_what_their_config_meant_then(asked, computes_in, monkeypatch):
    monkeypatch.setattr("kdhpc.training.device._has_amx", lambda: True)
    config = SimpleNamespace(device=DeviceConfig(precision=asked))
    run = SimpleNamespace(origin="runs/x", result=SimpleNamespace(precision=None), config=config)
    assert runtime_of(run, CPU).autocast_dtype is computes_in


def compared(logits_mnc, labels_n):
    predictions = Predictions(
        networks=tuple(f"network {index}" for index in range(len(logits_mnc))),
        logits_MNC=torch.from_numpy(logits_mnc),
        labels_N=torch.from_numpy(labels_n),
    )
    return compare_pairs(predictions, CPU, Progress(io.StringIO()))


@pytest.mark.parametrize("chunk_bytes", [1, 9000, 1 << 26])
def test_compare_pairs_agrees_with_the_equations_image_by_image(monkeypatch, chunk_bytes):
    monkeypatch.setattr(pairs_module, "_CHUNK_BYTES", chunk_bytes)
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (5, 203, 7)).astype(np.float32)
    labels = rng.integers(0, 7, 203)
    found = compared(logits, labels)
    assert found.num_images == 203
    assert list(zip(found.first, found.second, strict=True)) == [(i, j) for i in range(5) for j in range(i + 1, 5)]
    assert found.accuracies == pytest.approx([accuracy(own, labels) for own in logits])
    for first, second, kl, gained, ensemble in zip(
        *(found.first, found.second, found.mutual_kl, found.gains, found.ensemble_accuracies), strict=True
    ):
        assert kl == pytest.approx(mutual_kl(logits[first], logits[second]), rel=1e-9)
        assert gained == pytest.approx(gain(logits[first], logits[second], labels), abs=1e-9)
        assert ensemble == pytest.approx(accuracy(logits[first] + logits[second], labels))


def test_compare_pairs_of_nearly_equal_networks_loses_no_digits():
    rng = np.random.default_rng(1)
    first = rng.normal(0, 3, (50, 10)).astype(np.float32)
    second = first + rng.normal(0, 1e-3, (50, 10)).astype(np.float32)
    found = compared(np.stack([first, second]), rng.integers(0, 10, 50))
    # Some 1e-8 nats, a difference of entropies near 1.
    assert found.mutual_kl[0] == pytest.approx(mutual_kl(first, second), rel=1e-4)


def test_compare_pairs_of_very_sure_networks_is_finite():
    logits = np.array([[[1e4, 0, 0]], [[0, 1e4, 0]]], dtype=np.float32)
    assert compared(logits, np.array([0])).mutual_kl[0] == pytest.approx(1e4)


def made(mutual_kl, gains):
    """Pairs with these measures."""
    num = len(gains)
    return Pairs(
        networks=tuple(map(str, range(num + 1))),
        accuracies=np.full(num + 1, 70.0),
        first=np.zeros(num, dtype=np.int64),
        second=np.arange(1, num + 1),
        mutual_kl=np.array(mutual_kl),
        ensemble_accuracies=70 + np.array(gains),
        num_images=100,
    )


def test_fit_line_is_that_of_least_squares_with_pearsons_coefficient():
    rng = np.random.default_rng(2)
    x = rng.normal(1, 0.2, 40)
    y = 3 * x + rng.normal(0, 1, 40)
    line = fit_line(made(x, y))
    assert line.r == pytest.approx(statistics.correlation(x.tolist(), y.tolist()))
    assert (line.slope, line.intercept) == pytest.approx(statistics.linear_regression(x.tolist(), y.tolist()))


@pytest.mark.parametrize(
    ("x", "y"),
    [([0.1, 0.2, 0.3], [1.1, 1.1, 1.1]), ([0.7, 0.7, 0.7], [1.0, 2.0, 3.0]), ([0.1, 0.2, 0.3], [0, 1e-14, 0])],
)
def test_fit_line_where_nothing_varies_is_none(x, y):
    assert fit_line(made(x, y)) is None


def test_pairs_table_has_the_names_and_numbers_of_each_pair():
    found = made([0.1, 0.2], [1.5, -0.5])
    rows = list(csv.DictReader(io.StringIO(pairs_table(found))))
    assert [(row["network_1"], row["network_2"]) for row in rows] == [("0", "1"), ("0", "2")]
    assert [float(row["gain"]) for row in rows] == [1.5, -0.5]
    assert [float(row["mutual_kl"]) for row in rows] == [0.1, 0.2]


def test_report_pairs_agrees_with_the_equations_on_trained_networks(finished, capsys):
    student = next(Path("runs/train").glob("*student*"))
    folders = [INDEPENDENT, "runs/train/normalised/seed0", str(student)]
    assert main(["report", "pairs", *folders]) == 0
    out, err = capsys.readouterr()
    folder = finished.runs / "report" / "pairs-tiny-resnet8"
    summary, *paths = out.splitlines()
    assert paths == [str(folder / f"pairs.{ending}") for ending in ("csv", "svg", "png")]
    assert "7 networks on 40 images: 280 of 280" in err

    rows = list(csv.DictReader((folder / "pairs.csv").read_text().splitlines()))
    assert len(rows) == 21
    seeds = [*sorted(Path(INDEPENDENT).glob("seed*")), Path("runs/train/normalised/seed0")]
    networks = {
        f"{run.parent.name}/{run.name}/node{node + 1}": answers_of(run, node) for run in seeds for node in (0, 1)
    }
    networks[f"{student.name}/seed0/node1"] = answers_of(student / "seed0", 0)
    for row in rows:
        (first, *_, labels), (second, *_) = (networks[row[key]] for key in ("network_1", "network_2"))
        assert float(row["mutual_kl"]) == pytest.approx(mutual_kl(first, second), rel=1e-3, abs=1e-6)
        assert float(row["gain"]) == pytest.approx(gain(first, second, labels))
        assert float(row["accuracy_1"]) == pytest.approx(accuracy(first, labels))
        assert float(row["ensemble_accuracy"]) == pytest.approx(accuracy(first + second, labels))
    r = np.corrcoef([float(row["mutual_kl"]) for row in rows], [float(row["gain"]) for row in rows])[0, 1]
    assert summary == f"tiny, resnet8: 7 networks, 21 pairs, Pearson's r = {r:.3f}"

    # The pair of a run's own nodes is the run's ensemble.
    own = next(row for row in rows if row["network_1"].endswith("seed0/node1") and INDEPENDENT[11:] in row["network_1"])
    result = read_result(RunPaths(Path(INDEPENDENT) / "seed0").result)
    assert own["network_2"].endswith("independent2/seed0/node2")
    assert float(own["ensemble_accuracy"]) == pytest.approx(result.ensemble_accuracy)

    texts = svg_texts(folder / "pairs.svg")
    assert f"21 pairs of 7 networks, correlation coefficient r = {r:.3f}" in texts
    assert "mutual KL divergence (nats), mean over 40 test images" in texts
    with Image.open(folder / "pairs.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    blue = (pixels[..., 2] > 150) & (pixels[..., 0] < 120)
    orange = (pixels[..., 0] > 180) & (pixels[..., 2] < 60)
    assert blue.sum() > 21 * 50
    assert orange.sum() > 500


def test_read_predictions_finds_out_once_where_and_how_to_compute(finished, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "kdhpc.report.predictions.resolve_runtime",
        lambda *args, **more: asked.append(0) or resolve_runtime(*args, **more),
    )
    runs = find_finished([Path(INDEPENDENT)])
    read_predictions(choose_networks(runs), Progress(io.StringIO()))
    assert len(runs) == 2
    assert len(asked) == 2, "the device, and float32 on it"


def test_report_pairs_leaves_out_what_is_there_twice_or_not_done(finished, capsys):
    shutil.copytree("runs/train/tiny-resnet8-independent2/seed0", "runs/train/tiny-resnet8-independent2/seed2")
    Path("runs/train/tiny-resnet8-independent2/seed2/result.json").unlink()
    single = "runs/train/tiny-resnet8-independent1"
    assert main(["report", "pairs", INDEPENDENT, single, f"{single}/seed0", "--out", "figures"]) == 0
    out, err = capsys.readouterr()
    assert "4 networks, 6 pairs" in out
    assert sorted(path.name for path in Path("figures").iterdir()) == ["pairs.csv", "pairs.png", "pairs.svg"]
    assert [line.partition("WARNING ")[2] for line in err.splitlines() if "WARNING" in line] == [
        "left out, not done: runs/train/tiny-resnet8-independent2/seed2",
        "left out, the same network as another one: tiny-resnet8-independent2/seed0/node1",
    ]


def test_report_pairs_of_networks_that_are_not_those_of_their_results_says_so(finished, capsys):
    path = RunPaths(Path(INDEPENDENT) / "seed0").result
    result = read_result(path)
    write_result(dataclasses.replace(result, node_accuracies=(result.node_accuracies[0] - 30, 12.5)), path)
    assert main(["report", "pairs", INDEPENDENT]) == 0
    score = result.node_accuracies[0]
    assert f"node 1 scores {score:.2f} % here, its result says {score - 30:.2f} %" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folders", "code", "said"),
    [
        ([f"{INDEPENDENT}/seed0"], 2, "2 networks make 1 pair, a correlation needs at least 3"),
        (["runs/train/tiny-resnet8-independent1"], 2, "1 network makes no pair, a correlation needs at least 3"),
        (["runs/train/tiny-resnet8-one2"], 2, "is a run of ONE, whose branches are no networks of their own"),
        ([INDEPENDENT, "runs/train/tiny-resnet8-independent1-search"], 2, "run.split search and official"),
        ([INDEPENDENT, "nowhere"], 2, "nowhere is no folder"),
        (["configs"], 2, "configs holds no run of `kdhpc train` that is done"),
    ],
)
def test_report_pairs_that_cannot_be_meant_is_one_line_and_leaves_nothing(finished, capsys, folders, code, said):
    Path("configs").mkdir()
    assert main(["report", "pairs", *folders]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not (finished.runs / "report").exists()


def test_report_pairs_of_other_images_than_are_here_is_refused(finished, capsys):
    for path in Path(INDEPENDENT).glob("seed*/settings.json"):
        path.write_text(path.read_text().replace('"dataset.checksum": "', '"dataset.checksum": "0'))
    assert main(["report", "pairs", INDEPENDENT]) == 1
    err = capsys.readouterr().err
    assert "was trained with other images than data set 'tiny' has here" in err
    assert err.count("\n") == 1


def test_report_pairs_of_damaged_weights_names_the_file(finished, capsys):
    path = RunPaths(Path(INDEPENDENT) / "seed1").weights(1)
    path.write_bytes(path.read_bytes()[:-9])
    assert main(["report", "pairs", INDEPENDENT]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert "seed1: node2.safetensors cannot be read as safetensors" in err
