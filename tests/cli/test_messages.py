"""What is said to arguments that are wrong, missing, doubled or misspelt: one line, and what was meant or is to do."""

import io
import sys
from pathlib import Path

import pytest

from kdhpc.cli.main import main
from kdhpc.server.endpoint import read_endpoint
from kdhpc.study.storage import Storage
from tests.graph.test_authors import ROWS, document, written
from tests.study.made import EPOCHS, accuracy, make, take

DRY = ("search", "--study", "quickstart", "--dry-run")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("KDHPC_RUNS", "KDHPC_DATA", "KDHPC_STORAGE", "KDHPC_STUDY", "KDHPC_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def code_of(*words: str) -> int:
    try:
        return main(words)
    except SystemExit as exc:
        return int(exc.code or 0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("serach", "unknown command 'serach': did you mean 'search'?"),
        ("db strt", "unknown command 'strt': did you mean 'start'?"),
        ("report pair", "unknown command 'pair': did you mean 'pairs'?"),
        ("search --epochs 3", "unknown option --epochs: it is a config key, give training.epochs=3"),
        ("train --graph dml --epochs=3", "it is a config key, give training.epochs=3"),
        ("train --graph dml --epoch 3", "did you mean training.epochs=3?"),
        ("train --graph dml --network resnet8", "give network=resnet8"),
        ("train --graph dml --batch-size 8", "give training.batch_size=8"),
        ("search --wokers 3", "did you mean '--workers'?"),
        ("status --formt json", "did you mean '--format'?"),
        ("status --debug", "--debug stands before the command: kdhpc --debug status"),
        ("--study mine status", "--study stands after the command: kdhpc COMMAND --study ..."),
        ("--storage=x --debug status", "--storage stands after the command"),
        ("status --format jsn", "unknown value 'jsn': did you mean 'json'?"),
        ("status mine", "unexpected argument 'mine': did you mean --study mine?"),
        ("search quickstart", "did you mean --study quickstart?"),
        ("train --graph dml fashion_mnist", "did you mean dataset=fashion_mnist?"),
        ("train --graph dml hello", "config overrides are KEY=VALUE"),
        ("search --study a --study b", "argument --study: given twice, as a and as b: give it once"),
        ("search --workers many", "'many' is not a whole number"),
        ("export-best --top many", "'many' is not a whole number"),
        ("export-best --top 0", "0 is not above 0"),
        ("train", "required: --graph (see `kdhpc train --help`)"),
        ("train --graph dml --seeds 2..0", "--seeds 2..0 is not allowed: the smaller seed comes first, as 0..2"),
        ("train --graph dml --seeds 0,0", "--seeds 0,0 is not allowed: a seed is in it twice"),
        ("train --graph dml --seeds 0..9999999999", "at most 1,000 at once"),
        ("search --study mine training.epochs", "a config key needs a value, as training.epochs=VALUE"),
        ("data prepare folder . --size 1000000", "--size 1000000 is not allowed: 1 to 4096 pixels"),
        ("db start --allow 10.0.0.0/8", "--allow has no meaning without --listen"),
        ("search --study quickstart --dry-run --config-dir /etc/passwd", "config folder '/etc/passwd' is no folder"),
        ("search --study quickstart --dry-run training.lr=1", "did you mean 'training.learning_rate'?"),
        ("data check", "required: NAME"),
        ("report accuracy --by nods", "did you mean 'nodes'?"),
        ("report accuracy --by nodes --out /etc/passwd", "/etc/passwd cannot be a folder to write into"),
        ("export-best --out /etc/passwd/x", "/etc/passwd is a file: name another"),
        ("report pairs x --out /etc/passwd", "/etc/passwd cannot be a folder"),
        ("report attention x --out /etc/passwd", "/etc/passwd cannot be a folder"),
        ("train --graph dml --seeds 0..2 run.seed=3", "--seeds 0..2 and run.seed=3 contradict each other"),
        ("train --graph dml --nodes 2 run.num_nodes=3", "--nodes 2 and run.num_nodes=3 contradict each other"),
        ("search --study quickstart --workers 2 cluster.workers=3", "contradict each other: give one of them"),
        ("search --study quickstart study.seed=-1 --dry-run", "study.seed=-1 is not allowed: 0 or more"),
        ("search --study quickstart dataset.split_seed=-1 --dry-run", "dataset.split_seed=-1 is not allowed"),
        (
            "search --study quickstart --trials 30000000 --dry-run",
            "study.trials=30000000 is not allowed: at most 1,000,0",
        ),
        (
            "search --study quickstart epochs=3 --dry-run",
            "unknown config key 'epochs': did you mean 'training.epochs'?",
        ),
        ("search --study quickstart data=cifar10 --dry-run", "unknown config key 'data': did you mean 'dataset'?"),
        ("search --study quickstart study.sampler=Evolv --dry-run", "did you mean 'evolve'?"),
        ("search --study quickstart network=ResNet8x --dry-run", "did you mean 'resnet8'"),
        ("search --study quickstart study.baselines=[dmll] --dry-run", "did you mean 'dml'?"),
        ("doctor cluster.partition=gpu", "give --job cluster.key=value"),
    ],
)
def test_wrong_words_are_told_in_one_line_with_what_was_meant(
    line: str, said: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(*line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert [row for row in err.splitlines() if "is not prepared here" not in row][1:] == []
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize("line", ["", "db", "data", "report", "--debug"])
def test_group_without_a_command_shows_its_help_and_fails(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(*line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"usage: kdhpc {line}".replace("--debug", "").rstrip())
    assert "example" in err or "a search, from nothing" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("training=paper", "training.epochs=100"), "training.epochs=100: the learning rate never falls"),
        (("training=paper", "training.epochs=200"), "training.epochs=200: the learning rate does not fall there"),
        (("study.num_nodes=60",), "one device trains 60 networks at once, with up to 3,540 losses"),
        (("study.sampler=evolve", "study.population=100"), "study.population=100 are all of study.trials=16"),
        (("training.epochs=3", "training.epochs=4"), "training.epochs is given twice, as 3 and as 4: the last counts"),
    ],
)
def test_doubtful_search_is_told_already_by_its_dry_run(
    words: tuple[str, ...], said: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main((*DRY, *words)) == 0
    assert said in caplog.text + capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("training=paper",),
        ("training=paper", "training.epochs=100", "training.milestones=[0.5,0.75]"),
        ("training=paper", "training.epochs=100", "training.schedule=cosine"),
    ],
)
def test_usual_search_is_doubted_by_nobody(words: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    assert main((*DRY, *words)) == 0
    assert [record.message for record in caplog.records if "is not prepared here" not in record.message] == []


def test_without_a_database_it_is_said_where_one_is_looked_for(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status"]) == 1
    err = capsys.readouterr().err
    assert f"there is no database in {empty_folder / 'runs' / 'db'}" in err
    assert err.index("KDHPC_RUNS") < err.index("kdhpc db start")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("results nowhere", "there is no folder nowhere, and so no result in it: make one with `kdhpc train`"),
        ("results .", ". holds no result of a final training"),
        ("data check fashon", "data set 'fashon' is not prepared in"),
    ],
)
def test_what_is_not_there_is_named(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 1
    assert said in capsys.readouterr().err


def test_import_graph_writes_over_no_other_file(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = written(empty_folder, document(ROWS))
    (empty_folder / "precious").write_text("mine")
    assert main(["import-graph", str(theirs), "--out", "precious"]) == 2
    assert "precious is not allowed: it exists, and is no graph's file" in capsys.readouterr().err
    assert (empty_folder / "precious").read_text() == "mine"
    for _ in range(2):
        assert main(["import-graph", str(theirs), "--out", "graph.json"]) == 0


def test_closed_standard_output_is_told_if_there_was_something_to_show(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["data", "list", "--format", "json"]) == 1
    assert capsys.readouterr().err == (
        "kdhpc: standard output is closed: what this command has to show was not shown\n"
    )
    assert main(["data", "list"]) == 0  # Nothing is prepared, which stderr says.
    assert code_of("status", "--help") == 1


def test_closed_standard_error_leaves_standard_output_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["data", "list"]) == 0
    assert main(["status"]) == 1
    assert code_of("serach") == 2
    assert capsys.readouterr() == ("", "")


def test_full_disk_behind_standard_output_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with io.open("/dev/full", "w", encoding="utf-8") as full:  # noqa: UP020
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["data", "list", "--format", "json"]) == 1
        monkeypatch.undo()
    assert "No space left on device" in capsys.readouterr().err


def test_study_of_the_environment_that_does_not_exist_is_said_to_be_of_the_environment(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(storage)
    monkeypatch.setenv("KDHPC_STUDY", "tinny")
    assert main(["status"]) == 1
    assert "unknown study 'tinny': did you mean 'tiny'?" in (err := capsys.readouterr().err)
    assert "(KDHPC_STUDY=tinny names this study)" in err
    assert main(["search", "--dry-run"]) == 2
    assert "(KDHPC_STUDY=tinny names this study)" in capsys.readouterr().err
    assert main(["status", "--study", "tinny"]) == 1
    assert "KDHPC_STUDY" not in capsys.readouterr().err


def test_export_of_more_graphs_than_there_are_says_how_many_there_are(
    storage: Storage, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make(storage, target=2)
    for _ in range(2):
        trial = take(study)
        for epoch in EPOCHS:
            trial.report(epoch, accuracy(trial.number, epoch))
        trial.complete(accuracy(trial.number, EPOCHS[-1]))
    assert main(["export-best", "--study", "tiny", "--top", "100", "--out", str(empty_folder)]) == 0
    assert "--top 100: study tiny has 2 complete trials" in capsys.readouterr().err


def test_start_of_a_server_that_runs_refuses_what_it_does_not_do(
    storage: Storage, server_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = read_endpoint(server_folder)
    assert endpoint is not None
    assert main(["db", "start"]) == 0
    assert main(["db", "start", "--port", str(endpoint.port)]) == 0
    assert "was running already, with the options of its start" in capsys.readouterr().err
    for options, said in (
        (("--listen", "all"), "for this machine only, so --listen all has no effect: `kdhpc db stop`"),
        (("--port", "1"), "so --port 1 has no effect"),
    ):
        assert main(["db", "start", *options]) == 1
        assert said in capsys.readouterr().err
    assert main(["db", "start", "--workers", "7"]) == 0
    assert "with the options of its start; --workers 7 changes nothing" in capsys.readouterr().err
