"""A method that is one file and one line: trained, resumed, scored and reported as those of the package are."""

import csv
import io
import json

import pytest
import torch

from kdhpc.cli.main import main
from kdhpc.config.paths import RunPaths
from kdhpc.errors import ConfigError, GraphError
from kdhpc.final.finished import open_finished
from kdhpc.final.result import read_result
from kdhpc.final.summary import summarise_folder
from kdhpc.methods.load import load_method, method_class
from kdhpc.methods.registry import GRAPH, METHODS, MethodEntry, method_of
from kdhpc.report.accuracy import chart_accuracies
from kdhpc.training.compile import programs
from kdhpc.training.loop import TrainingLoop
from kdhpc.training.metrics import read_metrics
from tests.final.conftest import TINY
from tests.final.test_final import StopAfter, same, train, weights_of
from tests.methods.toy import ToyMethod
from tests.training.memory_source import runtime_of, setting_of
from tests.training.test_loop import never
from tests.training.test_recording import Recordings, assert_close_state


@pytest.fixture
def toy(place, monkeypatch):
    monkeypatch.setitem(METHODS, "toy", MethodEntry(code="tests.methods.toy:ToyMethod"))
    return place


def test_method_from_outside_is_trained_scored_and_kept(toy):
    result, reports = train(toy.config("run.graph=toy", "run.num_nodes=3"))
    paths = RunPaths.of("tiny-resnet8-toy3", 0)
    assert (result.name, result.graph, result.graph_key, result.num_nodes) == (paths.root.parent.name, "toy", "toy3", 3)
    assert (len(result.node_accuracies), result.ensemble_accuracy) == (3, reports[-1].ensemble_accuracy)
    assert read_result(paths.result) == result
    assert sorted(path.name for path in paths.root.glob("*.safetensors")) == [f"node{n}.safetensors" for n in (1, 2, 3)]
    assert not paths.graph.exists()
    assert len(reports[-1].train_losses) == 3
    assert [report.epoch for report in read_metrics(paths.metrics)] == [1, 2]
    assert train(toy.config("run.graph=toy", "run.num_nodes=3")) == (result, [])


def test_method_from_outside_stopped_anywhere_ends_with_the_same_bits(toy):
    whole, _ = train(toy.config("run.graph=toy", "run.name=whole"))
    result, rounds = None, 0
    while result is None:
        result, _ = train(toy.config("run.graph=toy", "run.name=pieces"), stop=StopAfter(3))
        rounds += 1
    assert rounds == 3
    assert all(same(weights_of("pieces", node=node), weights_of("whole", node=node)) for node in (0, 1))
    assert result.ensemble_accuracy == whole.ensemble_accuracy
    losses = [
        [report.train_losses for report in read_metrics(RunPaths.of(name, 0).metrics)] for name in ("whole", "pieces")
    ]
    assert losses[0] == losses[1]


def test_method_from_outside_is_in_tables_and_pictures(toy, capsys):
    for nodes in (2, 3):
        train(toy.config("run.graph=toy", f"run.num_nodes={nodes}"))
    train(toy.config("run.graph=one", "run.num_nodes=2"))
    assert main(["results", "--format", "csv"]) == 0
    rows = {row["training"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    row = rows["tiny-resnet8-toy3"]
    assert (row["graph"], row["nodes"], row["seeds"]) == ("toy", "3", "0")
    assert main(["report", "accuracy", "--by", "nodes", "--out", "figures"]) == 0
    assert (toy.folder / "figures" / "tiny-by-nodes.svg").is_file()
    (chart,) = chart_accuracies(summarise_folder(toy.runs / "train"), "nodes")
    curves = [(curve.kind, [point.x for point in curve.points]) for curve in chart.curves]
    assert curves == [("one", [2]), ("toy", [2, 3])]
    assert main(["report", "pairs", "runs/train", "--out", "figures"]) == 2
    assert "one2/seed0 is a run of ONE, whose branches are no networks of their own" in capsys.readouterr().err


def test_method_from_outside_can_teach_a_student(toy):
    train(toy.config("run.graph=toy", "run.name=elders"))
    result, _ = train(toy.config("run.graph=student", "run.teacher=runs/train/elders/seed0"))
    assert (result.teacher, result.num_nodes) == ("elders-seed0", 1)
    run = open_finished(RunPaths.of("elders", 0).root)
    assert run.method is ToyMethod
    network = run.network(0, 2, torch.device("cpu"))
    assert same(network.state_dict(), weights_of("elders"))


def test_method_from_outside_has_its_settings_compared(toy):
    train(toy.config("run.graph=toy", "run.name=mine"), stop=StopAfter(3))
    settings = json.loads(RunPaths.of("mine", 0).settings.read_text())
    assert settings["graph"] == "toy2"
    with pytest.raises(ConfigError, match=r'graph was "toy2", is "toy3"'):
        train(toy.config("run.graph=toy", "run.name=mine", "run.num_nodes=3"))
    with pytest.raises(
        ConfigError, match=r"run\.teacher=.*x has no meaning for run\.graph=toy: leave it out, or give --graph student"
    ):
        train(toy.config("run.graph=toy", "run.teacher=x"))


@pytest.mark.parametrize("name", ["toyy", "studnet"])
def test_method_that_is_unknown_is_told_with_the_nearest(toy, capsys, name):
    assert main(["train", *TINY, "--graph", name, "--nodes", "2"]) == 1
    nearest = {"toyy": "toy", "studnet": "student"}[name]
    assert (
        f"graph '{name}' is neither a preset nor a file: did you mean '{nearest}'? allowed: " in capsys.readouterr().err
    )


def test_method_of_a_key_that_nobody_has_is_told_with_the_nearest():
    assert (method_of("0123456789ab"), method_of("one3"), method_of("student")) == (GRAPH, "one", "student")
    with pytest.raises(ConfigError, match=r"no method is known for the key 'studio': did you mean 'student'\?"):
        method_of("studio")


def test_every_method_begins_its_keys_with_its_name_and_has_a_class():
    assert all(method_class(name).title for name in METHODS)


def test_graph_is_no_name_of_a_preset(toy):
    with pytest.raises(GraphError, match="graph 'graph' is neither a preset nor a file"):
        load_method(toy.config("run.graph=graph"), open_finished)


@pytest.mark.parametrize("options", [{"record": Recordings()}, {"backend": "aot_eager"}])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_method_from_outside_is_compiled_and_recorded(options):
    torch._dynamo.reset()
    computing = programs(options.get("backend"), options.get("record"))
    fast, plain = (
        TrainingLoop(ToyMethod(num=2), setting_of(runtime=runtime_of(programs=under)), seed=1)
        for under in (computing, programs(None))
    )
    for ours, theirs in zip(fast.epochs(never), plain.epochs(never), strict=True):
        assert ours.train_losses == pytest.approx(theirs.train_losses, rel=1e-4)
    if "record" in options:
        assert_close_state(fast.state(), plain.state())
    assert fast.mode == ("eager cudagraph" if "record" in options else "compile")
    torch._dynamo.reset()
