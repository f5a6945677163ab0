"""Results of final trainings: as files, averaged, and in tables."""

import csv
import dataclasses
import io
import json
import re

import numpy as np
import pytest

from kdhpc.cli.main import main
from kdhpc.errors import DataError
from kdhpc.final.result import FinalResult, NewerResultError, SearchedWith, read_result, write_result
from kdhpc.final.summary import summarise

ENSEMBLE = (71.0, 74.5, 70.25)
NODES = ((60.0, 70.0), (66.0, 62.0), (61.5, 65.0))


def result_of(seed, **changes):
    values = {
        "name": "dogs-resnet18-dml2",
        "dataset": "dogs",
        "network": "resnet18",
        "graph": "dml",
        "graph_key": "0123456789ab",
        "num_nodes": 2,
        "seed": seed,
        "epochs": 300,
        "training_images": 12000,
        "scored_on": "test",
        "settings": "fedcba9876543210",
        "node_accuracies": NODES[seed],
        "ensemble_accuracy": ENSEMBLE[seed],
        "num_parameters": 22476144,
        "seconds": 1.5,
        "device": "cpu",
        "versions": {"kdhpc": "0", "torch": "2"},
        "threads": 2,
        "precision": "bf16",
        "searched": SearchedWith(dataset="cars", network="abn_resnet18", study="cars2", trial=17),
    }
    return FinalResult(**values | changes)


@pytest.fixture
def written(tmp_path):
    for seed in range(3):
        (tmp_path / f"seed{seed}").mkdir()
        write_result(result_of(seed), tmp_path / f"seed{seed}" / "result.json")
    return tmp_path


def test_write_result_reads_back_as_it_was(tmp_path):
    write_result(result_of(1), tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == result_of(1)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_read_result_of_an_older_kdhpc_lacks_what_it_did_not_write(tmp_path):
    path = tmp_path / "result.json"
    write_result(result_of(1), path)
    document = json.loads(path.read_text())
    for key in ("threads", "precision", "searched"):
        del document[key]
    path.write_text(json.dumps(document))
    assert read_result(path) == result_of(1, threads=None, precision=None, searched=SearchedWith())


def test_result_fields_that_came_later_have_a_default():
    first = "name dataset network graph graph_key num_nodes seed epochs training_images scored_on settings"
    first += " node_accuracies ensemble_accuracy num_parameters seconds device versions"
    fields = dataclasses.fields(FinalResult)
    assert [field.name for field in fields if field.default is dataclasses.MISSING] == first.split()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"judged_by": "x", "flops": 1}, "does not know flops, judged_by: use that version"),
        ({"searched": {"dataset": "cars", "goal": "x"}}, "does not know searched.goal: use that version"),
        ({"version": 2}, "is kdhpc-result version 2, this kdhpc reads kdhpc-result version 1"),
    ],
)
def test_result_of_a_newer_kdhpc_is_one_line_and_is_left_out(written, capsys, caplog, more, said):
    path = written / "seed1" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    with pytest.raises(NewerResultError) as error:
        read_result(path)
    assert str(error.value).startswith(f"{path} ")
    assert str(error.value).endswith(said)
    assert main(["results", str(written), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["seeds"] == [0, 2]
    assert caplog.messages == [f"left out: {error.value}"]


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format": "kdhpc-result", "version": 9}', '{"format": 1, "version": 1}']
)
def test_read_result_damaged_is_named(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(DataError, match=r"result\.json"):
        read_result(tmp_path / "result.json")


@pytest.mark.parametrize("ddof", [0, 1])
def test_summarise_agrees_with_numpy(ddof):
    (summary,) = summarise([result_of(2), result_of(0), result_of(1)], ddof=ddof)
    assert summary.seeds == (0, 1, 2)
    assert summary.ensemble.mean == pytest.approx(np.mean(ENSEMBLE))
    assert summary.ensemble.std == pytest.approx(np.std(ENSEMBLE, ddof=ddof))
    means = np.mean(NODES, axis=1)
    assert summary.node.mean == pytest.approx(np.mean(means))
    assert summary.node.std == pytest.approx(np.std(means, ddof=ddof))


def test_summarise_one_seed_has_no_sample_deviation():
    assert summarise([result_of(0)])[0].ensemble.std is None
    assert summarise([result_of(0)], ddof=0)[0].ensemble.std == 0


def test_summarise_other_settings_are_not_averaged():
    other = dataclasses.replace(result_of(1), settings="0" * 16, epochs=20)
    assert [summary.epochs for summary in summarise([result_of(0), other])] == [300, 20]


def test_results_table_names_ddof_and_seeds(written, capsys):
    assert main(["results", str(written)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["training", "nodes", "epochs", "seeds", "node", "ensemble", "parameters"]
    std = np.std(ENSEMBLE, ddof=1)
    assert lines[1].split()[:4] == ["dogs-resnet18-dml2", "2", "300", "3"]
    assert f"{np.mean(ENSEMBLE):.2f} ± {std:.2f}" in lines[1]
    assert lines[1].endswith("22,476,144")
    assert "ddof 1" in lines[-1]
    assert main(["results", str(written), "--ddof", "0"]) == 0
    assert f"± {np.std(ENSEMBLE):.2f}" in capsys.readouterr().out


def test_results_of_a_training_that_has_hardly_begun_are_left_out_beside_others(written, tmp_path, capsys, caplog):
    (tmp_path / "begun" / "seed0").mkdir(parents=True)
    begun = str(tmp_path / "begun")
    assert main(["results", begun, str(written)]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("dogs-resnet18-dml2")
    assert f"left out, no training in it is done: {begun}" in caplog.messages
    assert main(["results", begun, begun]) == 1
    assert f"{begun}, {begun} holds no result of a final training" in capsys.readouterr().err


def test_results_as_json_and_csv_hold_every_seed(written, capsys):
    assert main(["results", str(written), "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["seeds"], row["ddof"], row["scored_on"]) == ([0, 1, 2], 1, "test")
    assert row["precision"] == "bf16"
    assert (row["devices"], row["versions"]) == (["cpu"], {"kdhpc": ["0"], "torch": ["2"]})
    assert row["searched"] == {"dataset": "cars", "network": "abn_resnet18", "study": "cars2", "trial": 17}
    assert main(["results", str(written), "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["training"], row["seeds"], row["ddof"]) == ("dogs-resnet18-dml2", "0 1 2", "1")
    assert float(row["ensemble_std"]) == pytest.approx(np.std(ENSEMBLE, ddof=1))
    assert (row["precision"], row["searched_dataset"], row["searched_network"]) == ("bf16", "cars", "abn_resnet18")
    assert (row["searched_study"], row["searched_trial"]) == ("cars2", "17")


def test_results_as_markdown_have_all_columns_and_what_is_said_below(written, capsys):
    assert main(["results", str(written), "--format", "markdown"]) == 0
    head, rule, row, empty, note = capsys.readouterr().out.splitlines()
    assert head == "| training | nodes | epochs | seeds | node | ensemble | parameters |"
    assert rule.count("---:") == 6
    assert row.startswith("| dogs-resnet18-dml2 | 2 | 300 | 3 | ")
    assert (empty, note.startswith("top-1 in percent")) == ("", True)


def test_results_of_a_preset_were_searched_with_nothing(tmp_path, capsys):
    write_result(result_of(0, searched=SearchedWith.of({"preset": "dml"})), tmp_path / "result.json")
    assert main(["results", str(tmp_path), "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert [value for key, value in row.items() if key.startswith("searched")] == [""] * 4


def test_results_of_the_search_split_say_so(tmp_path, capsys):
    write_result(result_of(0, scored_on="validation", name="dogs-search"), tmp_path / "result.json")
    assert main(["results", str(tmp_path)]) == 0
    assert "dogs-search (validation)" in capsys.readouterr().out


def test_results_without_any_says_how_to_make_one(tmp_path, capsys):
    assert main(["results", str(tmp_path)]) == 1
    assert "kdhpc train" in capsys.readouterr().err
    assert main(["results", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x/../../../E", "..", "a\x1b]0;b\x07"])
def test_read_result_with_a_name_that_leads_elsewhere_is_refused(tmp_path, name, capsys):
    """A student is called after its teacher, and a report after its run."""
    folder = tmp_path / "teacher" / "seed0"
    folder.mkdir(parents=True)
    write_result(result_of(0, name=name), folder / "result.json")
    with pytest.raises(DataError, match="can be no folder's"):
        read_result(folder / "result.json")
    config = ["dataset=cifar10", "network=resnet8", "training.epochs=1"]
    code = main(["train", "--graph", "student", "--teacher", str(folder), *config])
    assert code != 0
    said = capsys.readouterr().err
    assert "can be no folder's" in said
    assert "\x1b" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": "kdhpc-result", "version": 1, "ensemble_accuracy": 1' + "0" * 400 + "}"]
)
def test_read_result_of_brackets_or_digits_without_end_is_named(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(DataError, match="is not a result of a final training"):
        read_result(tmp_path / "result.json")


class Window(io.StringIO):
    """A terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


def _table_on_a_terminal(folder, columns, monkeypatch):
    window = Window()
    for name, value in (("TERM", "xterm"), ("NO_COLOR", "1"), ("LANG", "en_US.UTF-8"), ("COLUMNS", str(columns))):
        monkeypatch.setenv(name, value)
    for name in ("LC_ALL", "LC_CTYPE"):
        monkeypatch.delenv(name, raising=False)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", window)
        assert main(["results", str(folder)]) == 0
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", window.getvalue()).splitlines()]
    assert max(map(len, lines)) <= columns
    return lines


@pytest.fixture
def named(tmp_path):
    """Three trainings, two of them with names of their own."""
    for name, changes in (
        ("dogs-resnet18-dml2", {}),
        ("try-one", {"name": "try-one", "graph": "independent", "num_nodes": 4}),
        ("try-two", {"name": "try-two", "dataset": "cars", "num_nodes": 4, "epochs": 200}),
    ):
        for seed in (0, 1):
            folder = tmp_path / name / f"seed{seed}"
            folder.mkdir(parents=True)
            write_result(result_of(seed, **changes), folder / "result.json")
    return tmp_path


def test_results_on_a_terminal_say_once_what_all_share_and_what_run_name_hides(named, monkeypatch):
    lines = _table_on_a_terminal(named, 120, monkeypatch)
    assert lines[0] == "all: seeds 2, 22,476,144 parameters, network resnet18"
    assert lines[2].split() == ["training", "nodes", "epochs", "node", "ensemble", "dataset", "graph"]
    rows = {line.split()[0]: line.split() for line in lines[3:6]}
    assert rows["try-two"][1:3] + rows["try-two"][-2:] == ["4", "200", "cars", "dml"]
    assert rows["try-one"][-2:] == ["dogs", "independent"]


def test_results_on_a_narrow_terminal_leave_columns_out_by_rank(named, monkeypatch):
    lines = _table_on_a_terminal(named, 80, monkeypatch)
    assert lines[2].split() == ["training", "nodes", "node", "ensemble", "dataset", "graph"]
    assert any("without epochs" in line for line in lines)
    lines = _table_on_a_terminal(named, 60, monkeypatch)
    assert lines[2].split()[:4] == ["training", "node", "ensemble", "graph"]
    _table_on_a_terminal(named, 40, monkeypatch)


def test_results_in_a_pipe_keep_their_columns_and_add_what_run_name_hides(named, capsys):
    assert main(["results", str(named / "dogs-resnet18-dml2")]) == 0
    plain = ["training", "nodes", "epochs", "seeds", "node", "ensemble", "parameters"]
    assert capsys.readouterr().out.splitlines()[0].split() == plain
    assert main(["results", str(named)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == [*plain, "dataset", "network", "graph"]
