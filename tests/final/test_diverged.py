"""Final trainings that diverge: they end there, are never scored, averaged or taught from; old ones are found out."""

import csv
import io
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from kdhpc.cli.main import main
from kdhpc.config.paths import RunPaths
from kdhpc.errors import NetworkError, StorageError
from kdhpc.files.json_text import parse_json
from kdhpc.final.result import read_result
from tests.final.conftest import TINY
from tests.final.test_final import StopAfter, train

WILD = ("training.learning_rate=1e12",)
LOPSIDED = "lopsided"


@pytest.fixture
def lopsided(place, shared):
    """A data set of which 90 % are of one class: who answers nothing but that class is right so often."""
    if not (shared / "data" / LOPSIDED).exists():
        rng = np.random.default_rng(1)
        for half in ("train", "test"):
            for label, count in (("dark", 36), ("light", 4)):
                (shared / "lop" / half / label).mkdir(parents=True)
                for index in range(count):
                    pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(shared / "lop" / half / label / f"{index}.png")
        done = place.run("data", "prepare", "folder", str(shared / "lop"), "--name", LOPSIDED, "--size", "16")
        assert done.returncode == 0, done.stderr
    return place


def lines_of(text):
    return [line for line in text.splitlines() if line]


def test_training_that_diverges_exits_1_each_time_and_is_marked_in_the_table(lopsided, capsys):
    command = ("train", "--graph", "dml", "--nodes", "2", "--seeds", "0..1", *TINY, *WILD, f"dataset.name={LOPSIDED}")
    done = lopsided.run(*command)
    name, said = f"{LOPSIDED}-resnet8-dml2", lines_of(done.stdout)
    assert done.returncode == 1
    assert len(said) == 2
    for seed, line in enumerate(said):
        assert re.fullmatch(rf"{name} seed {seed}: diverged at epoch 1: the \w+ of node 1 (is|are) not finite", line)
    assert done.stderr.splitlines()[-1] == (
        f"kdhpc: 2 of 2 trainings diverged, the first: {said[0]}; no weights are kept: train with other settings"
    )
    paths = RunPaths.of(name, 0)
    document = parse_json(paths.result.read_bytes())
    assert said[0] == f"{name} seed 0: diverged at epoch {document['diverged_epoch']}: {document['diverged']}"
    assert (document["node_accuracies"], document["ensemble_accuracy"], document["weights"]) == (None, None, [])
    assert sorted(path.name for path in paths.root.iterdir()) == [
        *("config.yaml", "graph.json", "lock", "metrics.jsonl", "model.json", "result.json", "settings.json")
    ]

    again = lopsided.run(*command)
    assert (again.returncode, again.stdout) == (1, done.stdout)
    assert "epoch 1/2" not in again.stderr

    assert main(["results"]) == 0
    head, row, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "diverged"
    assert row.split()[:7] == [name, "2", "2", "0", "-", "-", row.split()[6]]
    assert row.split()[-1] == "2"
    assert main(["results", "--format", "json"]) == 0
    (found,) = parse_json(capsys.readouterr().out)
    assert (found["seeds"], found["diverged"], found["diverged_seeds"]) == ([], 2, [0, 1])
    assert (found["node"], found["ensemble"]) == (None, None)
    assert main(["results", "--format", "csv"]) == 0
    (found,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (found["seeds"], found["diverged"], found["diverged_seeds"]) == ("", "2", "0 1")
    assert (found["node_mean"], found["ensemble_mean"], found["ensemble_std"]) == ("", "", "")
    assert "90" not in (found["node_mean"], found["ensemble_mean"])


def test_training_that_diverges_in_a_job_counts_as_failed(place):
    done = place.run("train", "--graph", "independent", "--nodes", "1", "--launcher", "submitit_local", *TINY, *WILD)
    (why,) = lines_of(done.stdout)
    assert done.returncode == 1
    assert why.startswith("tiny-resnet8-independent1 seed 0: diverged at epoch 1: the ")
    assert f"1 of 1 trainings failed, the first: independent on tiny with resnet8, seed 0: {why}" in done.stderr


@pytest.fixture
def some(place):
    """Three seeds of a training, of which seed 1 diverged."""
    for seed in range(3):
        train(place.config("run.num_nodes=2", "run.name=some", f"run.seed={seed}"))
    diverge(RunPaths.of("some", 1))
    return place


def diverge(paths):
    """As if that run had: with the same settings it does not."""
    document = json.loads(paths.result.read_text())
    document |= {"node_accuracies": None, "ensemble_accuracy": None, "weights": []}
    paths.result.write_text(json.dumps({**document, "diverged_epoch": 2, "diverged": "the loss is not finite"}))
    for path in paths.root.glob("*.safetensors"):
        path.unlink()


def test_results_average_only_what_did_not_diverge(some, capsys):
    accuracies = [read_result(RunPaths.of("some", seed).result).ensemble_accuracy for seed in (0, 2)]
    assert main(["results", "--format", "json"]) == 0
    (found,) = parse_json(capsys.readouterr().out)
    assert (found["seeds"], found["diverged"], found["diverged_seeds"]) == ([0, 2], 1, [1])
    assert found["ensemble"]["mean"] == pytest.approx(np.mean(accuracies))
    assert found["ensemble"]["std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert main(["results"]) == 0
    head, row, _, note = capsys.readouterr().out.splitlines()
    assert (head.split()[3], row.split()[3]) == ("seeds", "2")
    assert row[head.index("diverged")] == "1"
    assert note.endswith("diverged: seeds that are not in it")


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--graph", "student", "--teacher", "runs/train/some/seed1", *TINY],
        ["report", "attention", "runs/train/some/seed1"],
        ["report", "pairs", "runs/train/some/seed1", "runs/train/some/seed0"],
    ],
)
def test_run_that_diverged_is_refused_where_it_is_asked_for(some, capsys, argv):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "runs/train/some/seed1 diverged at epoch 2: the loss is not finite: it has no weights" in err
    assert err.count("\n") == 1
    assert not (some.runs / "report").exists()


def test_reports_below_a_folder_leave_out_what_diverged_and_name_it(some, capsys):
    assert main(["report", "pairs", "runs/train"]) == 0
    out, err = capsys.readouterr()
    assert "4 networks, 6 pairs" in out
    assert "left out: runs/train/some/seed1 diverged at epoch 2: the loss is not finite" in err
    assert main(["report", "accuracy", "--by", "nodes"]) == 0
    assert "left out: some diverged with seed 1" in capsys.readouterr().err


def test_reports_of_nothing_but_what_diverged_are_one_line(some, capsys):
    for seed in (0, 2):
        shutil.rmtree(RunPaths.of("some", seed).root)
    assert main(["report", "accuracy", "--by", "nodes"]) == 1
    assert "diverged: nothing to draw" in capsys.readouterr().err
    assert main(["report", "pairs", "runs/train/some"]) == 2
    assert "no run of `kdhpc train` that is done is left" in capsys.readouterr().err


def test_result_that_cannot_be_written_of_a_training_that_diverged_is_written_the_next_time(place, faulty):
    config, paths = place.config("run.num_nodes=1", "run.name=run", *WILD), RunPaths.of("run", 0)
    faulty.rules("flush seed0/.result late=EDQUOT")
    with pytest.raises(StorageError, match=r"result\.json cannot be written: Disk quota exceeded"):
        train(config)
    assert not paths.result.exists()
    faulty.rules()
    result, reports = train(config, stop=StopAfter(1))
    assert len(reports) == 1, "scored again, not trained"
    assert (result.diverged_epoch, result.ensemble_accuracy) == (1, None)


def test_training_that_diverges_after_it_was_stopped_leaves_no_checkpoint(place):
    config, paths = place.config("run.num_nodes=1", "run.name=run", *WILD), RunPaths.of("run", 0)
    assert train(config, stop=StopAfter(3))[0] is None
    assert paths.checkpoint.exists()
    assert train(config)[0].divergence.startswith("diverged at epoch 1: the ")
    assert not paths.checkpoint.exists()


# What a kdhpc left that did not know this rule: a result like any other, and weights that are none.


@pytest.fixture
def old(place):
    train(place.config("run.num_nodes=2", "run.name=old"))
    paths = RunPaths.of("old", 0)
    document = json.loads(paths.result.read_text())
    for key in ("weights", "diverged", "diverged_epoch"):
        del document[key]
    paths.result.write_text(json.dumps({**document, "node_accuracies": [90.0, 90.0], "ensemble_accuracy": 90.0}))
    weights = load_file(paths.weights(1))
    save_file({**weights, "head.fc.weight": torch.full_like(weights["head.fc.weight"], math.nan)}, paths.weights(1))
    lines = [json.loads(line) for line in paths.metrics.read_text().splitlines()]
    old = [{**line, "train_losses": [0.7, math.nan]} for line in lines]
    paths.metrics.write_text("".join(f"{json.dumps(line)}\n" for line in old))
    return place


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["train", "--graph", "student", "--teacher", "runs/train/old/seed0", *TINY], 2),
        (["report", "attention", "runs/train/old/seed0", "--images", "1"], 2),
        (["train", "--graph", "independent", "--nodes", "2", *TINY, "run.name=old"], 1),
        (
            [
                *("train", "--graph", "independent", "--nodes", "1", *TINY, "objective.unlearned=pretrained"),
                "objective.pretrained=runs/train/old/seed0/node2.safetensors",
            ],
            2,
        ),
    ],
)
def test_older_run_whose_weights_are_none_is_refused_in_one_line(old, capsys, argv, code):
    assert main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "node2.safetensors holds numbers that are none in 'head.fc.weight', its training diverged" in err
    assert err.count("\n") == 1


def test_older_run_that_diverged_is_known_by_its_log(old, capsys):
    assert main(["results", "--format", "json"]) == 0
    (found,) = parse_json(capsys.readouterr().out)
    assert (found["seeds"], found["diverged_seeds"], found["ensemble"]) == ([], [0], None)


def test_networks_whose_answers_are_none_are_refused_in_reports(place, capsys):
    """Finite weights, too large to compute with."""
    train(place.config("run.num_nodes=2", "run.name=huge"))
    paths = RunPaths.of("huge", 0)
    weights = load_file(paths.weights(0))
    save_file({**weights, "head.fc.weight": torch.full_like(weights["head.fc.weight"], 3e38)}, paths.weights(0))
    document = json.loads(paths.result.read_text())
    paths.result.write_text(json.dumps({**document, "weights": []}))
    assert main(["report", "attention", "runs/train/huge/seed0", "--images", "1"]) == 2
    assert "huge/seed0: node 1 gives logits that are not finite" in capsys.readouterr().err


def test_search_refuses_pretrained_weights_that_are_none(old):
    from kdhpc.config.compose import compose_search
    from kdhpc.networks.weights import check_weights_file

    path = Path("runs/train/old/seed0/node2.safetensors")
    overrides = ["study=quickstart", "objective.unlearned=pretrained", f"objective.pretrained={path}"]
    with pytest.raises(NetworkError, match=r"objective\.pretrained=.*node2\.safetensors holds numbers that are none"):
        check_weights_file(compose_search(overrides).objective)
