"""A training's graph with the accuracies of its nodes, over seeds, and the command."""

import csv
import dataclasses
import json
import shutil
import statistics
from pathlib import Path

import pytest

from kdhpc.cli.main import main
from kdhpc.config.paths import RunPaths
from kdhpc.final.result import read_result, write_result
from tests.report.conftest import INDEPENDENT, svg_texts


def results_of(folder):
    return [read_result(RunPaths(path).result) for path in sorted(Path(folder).glob("seed*"))]


def rewrite(folder, **changes):
    path = RunPaths(Path(folder)).result
    write_result(dataclasses.replace(read_result(path), **changes), path)


def diverge(folder):
    changes = {"node_accuracies": None, "ensemble_accuracy": None, "diverged_epoch": 2, "diverged": "a loss is nan"}
    rewrite(folder, weights=(), **changes)


def test_report_graph_over_seeds_draws_and_writes_mean_and_deviation(finished, capsys):
    assert main(["report", "graph", INDEPENDENT]) == 0
    out = capsys.readouterr().out.splitlines()
    svg, png, numbers, table = map(Path, out[-4:])
    assert svg.parent == finished.runs / "report" / "graph-tiny-resnet8-independent2"
    assert png.stat().st_size > 10_000
    results = results_of(INDEPENDENT)
    columns = [*zip(*(result.node_accuracies for result in results), strict=True)]
    columns.append(tuple(result.ensemble_accuracy for result in results))
    texts = svg_texts(svg)
    for found in columns:
        mean, std = statistics.fmean(found), statistics.stdev(found)
        assert f"{mean:.2f}" in texts
        assert f"± {std:.2f}" in texts
        assert any(line.endswith(f"{mean:.2f} ± {std:.2f}") for line in out)
    said = "resnet8, top-1 in percent on the test images of tiny, mean ± standard deviation over 2 seeds"
    assert {"tiny-resnet8-independent2", "Ensemble", "1", "2", "through", said} <= set(texts)
    written = json.loads(numbers.read_text())
    assert written["seeds"] == [0, 1]
    assert [node["accuracies"] for node in written["nodes"]] == [list(found) for found in columns[:2]]
    assert written["ensemble"]["std"] == pytest.approx(statistics.stdev(columns[2]))
    assert written["graph"]["nodes"] == 2
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["who"] for row in rows] == ["node 1", "node 2", "ensemble"]
    assert float(rows[2]["seed1"]) == results[1].ensemble_accuracy


def test_report_graph_of_one_seed_gives_its_accuracies_alone_and_names_different_networks(finished, capsys):
    rewrite("runs/train/normalised/seed0", networks=("resnet8", "abn_resnet8"))
    assert main(["report", "graph", "runs/train/normalised/seed0", "--out", "figures"]) == 0
    (result,) = results_of("runs/train/normalised")
    texts = svg_texts(Path("figures/graph.svg"))
    shown = [f"({accuracy:.2f})" for accuracy in (*result.node_accuracies, result.ensemble_accuracy)]
    said = "top-1 in percent on the test images of tiny, seed 0"
    assert {*shown, "prob+", "through", "resnet8", "abn_resnet8", said} <= set(texts)
    assert json.loads(Path("figures/graph.json").read_text())["nodes"][1]["network"] == "abn_resnet8"
    assert "abn_resnet8" in capsys.readouterr().out


def test_report_graph_leaves_out_seeds_that_diverged_or_are_not_done_and_says_so(finished, capsys):
    for seed in (2, 3):
        shutil.copytree(f"{INDEPENDENT}/seed0", f"{INDEPENDENT}/seed{seed}")
        rewrite(f"{INDEPENDENT}/seed{seed}", seed=seed)
    diverge(f"{INDEPENDENT}/seed2")
    RunPaths(Path(f"{INDEPENDENT}/seed3")).result.unlink()
    assert main(["report", "graph", INDEPENDENT, "--out", "figures"]) == 0
    out, err = capsys.readouterr()
    assert f"left out, not done: {INDEPENDENT}/seed3" in err
    assert "over 2 seeds; 1 more seed diverged" in out
    written = json.loads(Path("figures/graph.json").read_text())
    assert (written["seeds"], written["diverged_seeds"]) == ([0, 1], [2])


def _diverged(folder):
    diverge(folder)


def _begun(folder):
    RunPaths(folder).result.unlink()


def _damaged(folder):
    RunPaths(folder).result.write_text("{")


def _without_graph(folder):
    RunPaths(folder).graph.unlink()


@pytest.mark.parametrize(
    ("folder", "before", "code", "said"),
    [
        ("runs/train/tiny-resnet8-one2", None, 2, "was trained by one, which has no graph: see `kdhpc results"),
        ("runs/train/tiny-resnet8-one2/seed0", None, 2, "was trained by one, which has no graph"),
        ("runs/train/normalised/seed0", _diverged, 2, "diverged at epoch 2: a loss is nan: it has no accuracy to draw"),
        ("runs/train/normalised/seed0", _begun, 2, "is not done, the command that began it goes on"),
        ("runs/train/normalised", _begun, 2, "is no run of `kdhpc train`"),
        ("runs/train/normalised/seed0", _damaged, 1, "is not a result of a final training"),
        ("runs/train/normalised/seed0", _without_graph, 2, "is not whole"),
        ("runs/train", None, 2, "holds 7 trainings ("),
        ("nowhere", None, 2, "nowhere is no folder"),
    ],
)
def test_report_graph_that_cannot_be_drawn_is_one_line_and_leaves_nothing(finished, capsys, folder, before, code, said):
    if before is not None:
        before(next(Path(folder).glob("seed0"), Path(folder)))
    assert main(["report", "graph", folder]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not (finished.runs / "report").exists()


def test_report_graph_of_a_student_is_one_line(finished, capsys):
    student = next(Path("runs/train").glob("*student*"))
    assert main(["report", "graph", str(student)]) == 2
    assert "was trained by student, which has no graph" in capsys.readouterr().err
