"""Accuracies by nodes and by parameters: what is joined to a curve, and the command."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdhpc.cli.main import main
from kdhpc.final.result import SearchedWith, write_result
from kdhpc.final.scores import Detection, Quality, Scores
from kdhpc.final.summary import summarise
from kdhpc.report.accuracy import chart_accuracies
from tests.final.test_results import result_of
from tests.report.conftest import svg_texts


def trained(graph, nodes, *, seeds=2, size=11, **changes):
    """Results of some seeds; the ensemble's accuracy is 60 + nodes + seed."""
    values = {
        "name": f"dogs-resnet18-{graph}{nodes}",
        "graph": graph,
        "num_nodes": nodes,
        "num_parameters": nodes * size * 1_000_000,
        "searched": SearchedWith(),
        "settings": f"{graph}{nodes}{sorted(changes.items())}",
    }
    return [result_of(seed, **{**values, "ensemble_accuracy": 60.0 + nodes + seed, **changes}) for seed in range(seeds)]


def charts(*groups, by="nodes"):
    return chart_accuracies(summarise([result for group in groups for result in group]), by)


def shape(chart):
    """Label and places of each curve."""
    return [(curve.label, [point.x for point in curve.points]) for curve in chart.curves]


def test_chart_by_nodes_has_a_curve_for_each_kind_of_graph():
    (chart,) = charts(
        *(trained("uniform:att-", nodes) for nodes in (3, 2)),
        *(trained("independent", nodes) for nodes in (2, 1)),
        trained("one", 2),
        trained("student", 1),
        trained("uniform:prob+", 2),
        *(trained(f"/x/dogs{nodes}-best.json", nodes, searched=SearchedWith(dataset="dogs")) for nodes in (2, 3)),
        trained("mine.json", 2),
    )
    assert shape(chart) == [
        ("independent", [1, 2]),
        ("dml", [1, 2]),
        ("uniform:att-", [1, 2, 3]),
        ("one", [2]),
        ("student", [1]),
        ("mine", [2]),
        ("searched graph (dogs)", [2, 3]),
    ]
    assert (chart.dataset, chart.scored_on) == ("dogs", "test")
    assert chart.common == ("resnet18", "300 epochs", "12,000 training images", "bf16")
    (point,) = chart.curves[3].points
    assert (point.value.mean, point.num_seeds) == (62.5, 2)
    assert point.value.std == pytest.approx(np.std([62, 63], ddof=1))


def test_chart_names_what_tells_curves_apart():
    (chart,) = charts(
        trained("independent", 1),
        trained("dml", 2),
        trained("dml", 2, name="short", epochs=20),
        trained("dml", 2, name="small", network="resnet20"),
    )
    assert shape(chart) == [
        ("independent, resnet18, 300 epochs", [1]),
        ("dml, resnet18, 20 epochs", [2]),
        ("dml, resnet18, 300 epochs", [1, 2]),
        ("dml, resnet20, 300 epochs", [2]),
    ]
    assert chart.common == ("12,000 training images", "bf16")


def test_chart_two_of_a_curve_at_one_place_are_points_by_name():
    searched = {"searched": SearchedWith(dataset="dogs")}
    (chart,) = charts(
        trained("a.json", 2, name="first", **searched),
        trained("b.json", 2, name="second", **searched),
        trained("c.json", 3, name="third", **searched),
    )
    assert shape(chart) == [("searched graph (dogs)", [3]), ("first", [2]), ("second", [2])]


def test_charts_are_one_for_each_data_set_and_half():
    found = charts(
        trained("dml", 2), trained("dml", 2, dataset="cars"), trained("dml", 2, name="x", scored_on="validation")
    )
    assert [(chart.dataset, chart.scored_on) for chart in found] == [
        ("cars", "test"),
        ("dogs", "test"),
        ("dogs", "validation"),
    ]


def test_chart_by_parameters_joins_single_networks_of_several_sizes():
    (chart,) = charts(
        *(trained("independent", nodes) for nodes in (1, 2, 3)),
        trained("independent", 1, size=21, name="larger", network="resnet34"),
        trained("a.json", 2, searched=SearchedWith(dataset="dogs")),
        by="parameters",
    )
    million = 1_000_000
    assert shape(chart) == [
        ("single network (resnet18 to resnet34)", [11 * million, 21 * million]),
        ("independent, resnet18", [11 * million, 22 * million, 33 * million]),
        ("searched graph (dogs), resnet18", [22 * million]),
    ]


def written(folder, *groups):
    for index, result in enumerate(result for group in groups for result in group):
        (folder / str(index)).mkdir(parents=True)
        write_result(result, folder / str(index) / "result.json")


@pytest.mark.parametrize(
    ("by", "axis"),
    [("nodes", "nodes (networks of the ensemble)"), ("parameters", "parameters of all networks (millions)")],
)
def test_report_accuracy_draws_every_curve(tmp_path, monkeypatch, capsys, by, axis):
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path / "runs"))
    written(
        tmp_path / "runs" / "train", *(trained("independent", nodes) for nodes in (1, 2)), trained("mine $x$.json", 2)
    )
    assert main(["report", "accuracy", "--by", by]) == 0
    svg, png = map(Path, capsys.readouterr().out.splitlines())
    assert svg == tmp_path / "runs" / "report" / "accuracy" / f"dogs-by-{by}.svg"
    texts = svg_texts(svg)
    assert {"dogs", axis, "ensemble accuracy on test images (%)", "independent", "mine $x$"} <= set(texts)
    caption = "resnet18, 300 epochs, 12,000 training images, bf16, mean and standard deviation (ddof 1) over 2 seeds"
    assert caption in " ".join(texts)
    with Image.open(png) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    for colour in ((0, 114, 178), (213, 94, 0)):
        assert (np.abs(pixels - colour).sum(axis=2) < 30).sum() > 200
    assert (pixels[:, :8] == 255).all()
    assert (pixels[:, -8:] == 255).all()


def scored(nll, *datasets):
    quality = Quality(nll=nll, brier=0.5, ece=0.1)
    ood = tuple(Detection(dataset=name, checksum="0" * 64, nodes=(0.5, 0.7), ensemble=0.75) for name in datasets)
    return Scores(nodes=(quality, quality), ensemble=quality, disagreement=0.25, mutual_kl=0.1, ood=ood)


def test_report_accuracy_draws_another_measure(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path / "runs"))
    written(
        tmp_path / "runs" / "train",
        trained("independent", 2, scores=scored(0.75, "cars")),
        trained("dml", 2, scores=scored(0.5, "cars")),
        trained("mine.json", 2),
    )
    assert main(["report", "accuracy", "--by", "nodes", "--measure", "nll"]) == 0
    assert caplog.messages == ["left out: dogs-resnet18-mine.json2 has no nll for all of its seeds"]
    svg, png = map(Path, capsys.readouterr().out.splitlines())
    assert (svg.name, png.name) == ("dogs-nll-by-nodes.svg", "dogs-nll-by-nodes.png")
    texts = svg_texts(svg)
    assert {"ensemble NLL on test images (nats)", "independent", "dml"} <= set(texts)
    assert "mine" not in texts
    assert main(["report", "accuracy", "--by", "nodes", "--measure", "node_auroc:cars"]) == 0
    assert "node AUROC against cars on test images" in svg_texts(Path(capsys.readouterr().out.splitlines()[0]))


@pytest.mark.parametrize(
    ("measure", "code", "said"),
    [
        ("nl", 2, "unknown measure 'nl': did you mean 'nll'?"),
        ("nll,ece", 2, "--measure nll,ece is several: draw one at a time"),
        ("nll", 1, "has nll for all seeds: `kdhpc evaluate` adds scores to older runs"),
    ],
)
def test_report_accuracy_of_a_measure_that_is_not_there_is_one_line(tmp_path, capsys, measure, code, said):
    written(tmp_path / "train", trained("dml", 2))
    assert main(["report", "accuracy", str(tmp_path / "train"), "--by", "nodes", "--measure", measure]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_report_accuracy_of_many_long_names_stays_on_the_page(tmp_path, capsys):
    groups = [trained("a.json", 2, name=f"{'long' * 12}{index}", settings=str(index)) for index in range(17)]
    written(tmp_path / "train", *groups, trained("one", 2, seeds=1))
    assert main(["report", "accuracy", str(tmp_path / "train"), "--by", "nodes", "--out", str(tmp_path / "out")]) == 0
    svg, png = map(Path, capsys.readouterr().out.splitlines())
    assert len([text for text in svg_texts(svg) if text.startswith("longlong")]) == 17
    assert "nodes (networks of the ensemble, branches of ONE)" in svg_texts(svg)
    with Image.open(png) as image:
        pixels = np.asarray(image.convert("L"))
    assert (pixels[-8:] == 255).all()
    assert (pixels[:, -8:] == 255).all()


def test_report_accuracy_never_waits_for_torch(tmp_path):
    written(tmp_path / "train", trained("dml", 2))
    program = (
        "import sys\nfrom kdhpc.cli.main import main\n"
        "assert main(['report', 'accuracy', sys.argv[1], '--by', 'nodes', '--out', sys.argv[2]]) == 0\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "train"), str(tmp_path / "out")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_report_accuracy_without_results_says_how_to_make_one(tmp_path, capsys):
    assert main(["report", "accuracy", str(tmp_path), "--by", "nodes"]) == 1
    err = capsys.readouterr().err
    assert "make one with `kdhpc train`" in err
    assert err.count("\n") == 1
