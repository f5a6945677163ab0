"""``kdhpc results --against`` and ``--columns``: results written by hand, numbers worked out by SciPy and NumPy."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from scipy import stats

from kdhpc.cli.main import main
from kdhpc.final.result import read_result, write_result
from kdhpc.final.scores import Detection, Quality, Scores
from kdhpc.final.student_t import two_sided_t
from tests.final.test_results import _table_on_a_terminal, result_of

RANDOM = np.random.default_rng(0).uniform(0, 1, (2, 8, 6))
"""Made-up numbers of two trainings, eight seeds each."""
DML, OWN = "dogs-resnet18-dml2", "dogs-resnet18-independent2"


def quality(row):
    return Quality(nll=float(row[0]), brier=float(row[1]), ece=float(row[2]))


def scores_of(row, *datasets):
    ood = tuple(Detection(dataset=name, checksum="0" * 64, nodes=(0.5, 0.7), ensemble=0.75) for name in datasets)
    return Scores(
        nodes=(quality(row), quality(row[1:])), ensemble=quality(row[2:]), disagreement=0.25, mutual_kl=0.125, ood=ood
    )


def write(folder, name, seed, **changes):
    place = folder / name / f"seed{seed}"
    place.mkdir(parents=True)
    method = int(name == OWN)
    changes = {
        "graph": "independent" if method else "dml",
        "graph_key": "0123456789ab" if method else "ba9876543210",
        "settings": name,
        "ensemble_accuracy": 70 + 10 * float(RANDOM[method, seed, 5]),
        "node_accuracies": (60.0 + seed, 62.0),
        "scores": scores_of(RANDOM[method, seed]),
        **changes,
    }
    result = dataclasses.replace(result_of(0), name=name, seed=seed, **changes)
    write_result(result, place / "result.json")
    return place


DIVERGED = {
    "ensemble_accuracy": None, "node_accuracies": None, "scores": None, "diverged_epoch": 3, "diverged": "the loss",
}  # fmt: skip


@pytest.fixture
def both(tmp_path):
    """Seeds 0 to 5 of one, 1 to 7 of the other, of which one diverged."""
    for seed in range(6):
        write(tmp_path, DML, seed, **(DIVERGED if seed == 3 else {}))
    for seed in range(1, 8):
        write(tmp_path, OWN, seed)
    return tmp_path


@pytest.mark.parametrize("degrees", [*range(1, 31), 99, 1000])
def test_two_sided_t_agrees_with_scipy(degrees):
    assert two_sided_t(0.95, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)
    assert two_sided_t(0.5, degrees) == pytest.approx(stats.t.ppf(0.75, degrees), rel=1e-9)


def test_against_as_markdown_is_a_table_for_each_that_others_are_compared_with(both, capsys):
    assert main(["results", str(both), "--against", OWN, "--columns", "nll", "--format", "markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("| training | pairs | nll | diverged |")
    assert lines[at - 2 : at] == [f"against {OWN}", ""]
    assert lines[at + 2].startswith(f"| {DML} | ")


@pytest.mark.parametrize("name", [OWN, "independent"])
def test_against_agrees_with_scipys_paired_t_test(both, capsys, name):
    chosen = "ensemble,nll,node_ece"
    assert main(["results", str(both), "--against", name, "--columns", chosen, "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["training"], found["against"], found["refused"]) == (DML, OWN, "")
    assert (found["diverged_seeds"], found["against_diverged_seeds"]) == ([3], [])
    seeds = [1, 2, 4, 5]
    ours, theirs = RANDOM[:, seeds]
    for measure, own, other in (
        ("ensemble", 70 + 10 * ours[:, 5], 70 + 10 * theirs[:, 5]),
        ("nll", ours[:, 2], theirs[:, 2]),
        ("node_ece", ours[:, 2:4].mean(axis=1), theirs[:, 2:4].mean(axis=1)),
    ):
        difference = found["differences"][measure]
        interval = stats.ttest_rel(own, other).confidence_interval(0.95)
        assert difference["pairs"] == seeds
        assert difference["mean"] == pytest.approx(np.mean(own - other))
        assert (difference["low"], difference["high"]) == pytest.approx((interval.low, interval.high))


def test_against_in_a_table_counts_pairs_and_says_who_diverged(both, capsys):
    assert main(["results", str(both), "--against", "independent"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"against {OWN}"
    assert lines[1].split() == ["training", "pairs", "ensemble", "node", "diverged"]
    own, other = RANDOM[:, [1, 2, 4, 5], 5]
    assert lines[2].split()[:3] == [DML, "4", f"{10 * np.mean(own - other):+.2f}"]
    assert lines[2].split()[-4:] == ["+0.00", "[+0.00,", "+0.00]", "1"]
    assert lines[-1] == f"diverged, so in no pair: {DML} seed 3"
    assert main(["results", str(both), "--against", "independent", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["measure"], row["pairs"], row["diverged_seeds"]) for row in rows] == [
        ("ensemble", "1 2 4 5", "3"),
        ("node", "1 2 4 5", "3"),
    ]


def test_against_counts_the_pairs_of_each_measure(both, capsys):
    path = both / OWN / "seed4" / "result.json"
    document = json.loads(path.read_text())
    del document["scores"]  # Of an older version.
    path.write_text(json.dumps(document))
    assert main(["results", str(both), "--against", "independent", "--columns", "ensemble,nll,auroc"]) == 0
    out = capsys.readouterr().out
    row = out.splitlines()[2]
    assert "of nll less is better" in out
    assert "(3 of 4)" in row
    assert row.split()[-2:] == ["-", "1"]


@pytest.mark.parametrize(("seeds", "have", "cell"), [((5, 6), "one seed", "+"), ((6, 7), "no seed", "-")])
def test_against_with_fewer_than_two_pairs_has_no_interval_and_says_so(tmp_path, capsys, seeds, have, cell):
    for seed in (4, 5):
        write(tmp_path, DML, seed)
    for seed in seeds:
        write(tmp_path, OWN, seed, ensemble_accuracy=1.0)
    assert main(["results", str(tmp_path), "--against", "independent"]) == 0
    out = capsys.readouterr().out
    assert f"{DML} and {OWN} have {have} in common: an interval needs two or more" in out
    assert "[" not in out.splitlines()[2]
    assert out.splitlines()[2].split()[2].startswith(cell)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "cars"}, "data set dogs, there cars"),
        ({"network": "resnet50", "epochs": 20}, "network resnet18, there resnet50, epochs 300, there 20"),
        ({"scored_on": "validation"}, "scored on test, there validation"),
        ({"precision": "fp16"}, "precision bf16, there fp16"),
    ],
)
def test_against_what_is_not_like_it_is_refused_in_one_line(tmp_path, capsys, changes, said):
    for seed in (0, 1):
        write(tmp_path, DML, seed)
        write(tmp_path, OWN, seed, **changes)
    assert main(["results", str(tmp_path), "--against", "independent"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"nothing can be compared with independent: {DML} is not like {OWN}: {said}" in err
    write(tmp_path, "like", 0, graph="uniform:att-", **changes)
    assert main(["results", str(tmp_path), "--against", "independent"]) == 0
    assert f"not compared: {DML} is not like {OWN}: {said}" in capsys.readouterr().out


def test_against_takes_the_training_with_as_many_nodes_and_tells_of_other_settings(both, capsys):
    other = "dogs-resnet18-independent4"
    for seed in range(3):
        write(both, other, seed, graph="independent", num_nodes=4)
    for name, rate in ((DML, 0.1), (OWN, 0.05)):
        for place in (both / name).iterdir():
            (place / "settings.json").write_text(json.dumps({"training.learning_rate": rate, "graph": name}))
    assert main(["results", str(both), "--against", "independent"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"against {OWN}"
    assert f"{DML} has other settings as well: training.learning_rate 0.1, there 0.05" in out
    assert main(["results", str(both), "--against", other]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[2:4]} == {DML, OWN}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["--against", "indpendent"],
            2,
            "no training and no graph is called 'indpendent': did you mean 'independent'?",
        ),
        (["--columns", "nl"], 2, "unknown measure 'nl': did you mean 'nll'?"),
        (["--columns", "nll,ece,nll"], 2, "the measure nll is given twice"),
        (["--columns", ""], 2, "no measure is named: give some of ensemble, node, "),
        (["--columns", "nll:cars"], 2, "unknown measure 'nll:cars'"),
        (["--columns", "auroc:nosuch"], 2, "no training was scored against 'nosuch'"),
        (["--against", "dml", "--columns", "node_auroc:nosuch"], 2, "no training was scored against 'nosuch'"),
        (["--against", "dml", "--ddof", "0"], 2, "--ddof is of standard deviations, which --against does not show"),
        (["--columns", "nll", "--format", "json"], 2, "--columns is of tables, and json has all columns"),
        (["--members", "3"], 2, "--members is of an ensemble: add --ensemble greedy"),
        (["--ensemble", "greedy"], 2, "add --members N"),
        (["--ensemble", "greedy", "--members", "2", "--against", "dml"], 2, "leave --against and --columns out"),
    ],
)
def test_results_of_what_cannot_be_meant_is_one_line(both, capsys, arguments, code, said):
    assert main(["results", str(both), *arguments]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_against_itself_alone_is_refused(both, capsys):
    assert main(["results", str(both / DML), "--against", "dml"]) == 2
    assert "all trainings here are of dml" in capsys.readouterr().err


def test_scores_are_read_back_and_averaged_over_seeds(tmp_path, capsys):
    for seed in range(3):
        place = write(tmp_path, DML, seed, scores=scores_of(RANDOM[0, seed], "cars"))
    assert read_result(place / "result.json").scores == scores_of(RANDOM[0, 2], "cars")
    assert main(["results", str(tmp_path), "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    nll = RANDOM[0, :3, 2]
    assert found["scores"]["nll"] == pytest.approx({"mean": np.mean(nll), "std": np.std(nll, ddof=1)})
    node_nll = RANDOM[0, :3, :2].mean(axis=1)
    assert found["scores"]["node_nll"]["mean"] == pytest.approx(np.mean(node_nll))
    assert (found["scores"]["disagreement"]["mean"], found["scores"]["mutual_kl"]["mean"]) == (0.25, 0.125)
    assert (found["scores"]["auroc:cars"]["mean"], found["scores"]["node_auroc:cars"]["mean"]) == (0.75, 0.6)
    assert main(["results", str(tmp_path), "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert float(row["nll_mean"]) == pytest.approx(np.mean(nll))
    assert float(row["auroc:cars_std"]) == 0
    assert main(["results", str(tmp_path), "--columns", "node,brier,auroc"]) == 0
    head, line = capsys.readouterr().out.splitlines()[:2]
    assert head.split() == ["training", "seeds", "node", "brier", "auroc:cars"]
    assert line.split()[-3:] == ["0.7500", "±", "0.0000"]


def test_results_of_which_one_is_older_have_a_dash_and_say_how_to_get_the_number(both, capsys):
    write(both, "old", 0, scores=None)
    assert main(["results", str(both)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[6:10] == ["parameters", "nll", "ece", "diverged"]
    assert next(line for line in lines if line.startswith("old")).split()[7:9] == ["-", "-"]
    start = lines[0].index("nll")
    assert "±" in next(line for line in lines if line.startswith(OWN))[start : start + 15]
    assert lines[-1] == "1 run has no scores, being older: `kdhpc evaluate` with the folder adds them"


def test_results_of_a_damaged_score_are_left_out(both, capsys, caplog):
    path = both / OWN / "seed4" / "result.json"
    path.write_text(path.read_text().replace('"disagreement": 0.25', '"disagreement": null, "surprise": 1'))
    assert main(["results", str(both)]) == 0
    assert "does not know scores.surprise: use that version" in caplog.messages[0]


def test_scores_on_a_terminal_stay_within_80_columns(both, monkeypatch):
    lines = _table_on_a_terminal(both, 80, monkeypatch)
    assert any("without ece, nll" in line for line in lines)
    lines = _table_on_a_terminal(both, 140, monkeypatch)
    assert "nll" in " ".join(lines)
