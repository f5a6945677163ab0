"""SLA and FRSKD as final trainings: what is kept, gone on with, refused, listed, predicted with, and taught by."""

import csv
import io
import json

import pytest
import torch
from safetensors.torch import load_file
from torchvision.models import resnet18

import kdhpc
from kdhpc.cli.main import main
from kdhpc.config.paths import RunPaths
from kdhpc.errors import ConfigError, NetworkError
from kdhpc.final.result import read_result
from kdhpc.final.summary import summarise_folder
from kdhpc.report.accuracy import chart_accuracies
from tests.final.conftest import TINY
from tests.final.test_final import StopAfter, same, train, weights_of

both = pytest.mark.parametrize("method", ["sla", "frskd"])


@both
def test_train_final_keeps_the_network_alone_which_torchvision_loads(place, method):
    config = place.config(
        f"run.graph={method}", "network.name=resnet18", "network.crops=[1]", "training.epochs=1", "run.name=kept"
    )
    result, (report,) = train(config)
    paths = RunPaths.of("kept", 0)
    assert (result.graph, result.graph_key, result.num_nodes) == (method, method, 1)
    assert result.node_accuracies == (result.ensemble_accuracy,) == (report.ensemble_accuracy,)
    assert [path.name for path in paths.root.glob("*.safetensors")] == ["node1.safetensors"]
    plain = resnet18(num_classes=2)
    plain.load_state_dict(load_file(paths.weights(0)))
    assert result.num_parameters == sum(one.numel() for one in plain.parameters())
    ensemble = kdhpc.load(paths.root, device="cpu")
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    expected = plain.eval()(images / 255).softmax(dim=1)
    torch.testing.assert_close(ensemble.predict(images), expected, rtol=1e-4, atol=1e-5)
    assert ensemble.attention(images).shape == (4, 1, 1, 1)


@both
def test_train_final_stopped_anywhere_ends_with_the_same_bits(place, method):
    whole, _ = train(place.config(f"run.graph={method}", "run.name=whole"))
    result, rounds = None, 0
    while result is None:
        result, _ = train(place.config(f"run.graph={method}", "run.name=pieces"), stop=StopAfter(3))
        rounds += 1
    assert rounds == 3
    assert same(weights_of("pieces"), weights_of("whole"))
    assert result.ensemble_accuracy == whole.ensemble_accuracy


def test_self_taught_runs_are_listed_drawn_and_teach(place, capsys):
    for method in ("sla", "frskd"):
        train(place.config(f"run.graph={method}"))
        name = f"tiny-resnet8-{method}"
        student, _ = train(place.config("run.graph=student", f"run.teacher=runs/train/{name}/seed0"))
        assert (student.teacher, student.name) == (f"{name}-seed0", f"tiny-resnet8-student-of-{name}-seed0")
        assert student.teacher_accuracy == read_result(RunPaths.of(name, 0).result).ensemble_accuracy
    assert main(["results", "--format", "csv"]) == 0
    rows = {row["training"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert {name: (row["graph"], row["nodes"]) for name, row in rows.items() if "student" not in name} == {
        "tiny-resnet8-sla": ("sla", "1"),
        "tiny-resnet8-frskd": ("frskd", "1"),
    }
    (chart,) = chart_accuracies(summarise_folder(place.runs / "train"), "nodes")
    assert [curve.kind for curve in chart.curves] == ["sla", "frskd", "student", "student"]
    assert main(["report", "accuracy", "--by", "nodes", "--out", "figures"]) == 0
    assert main(["report", "pairs", "runs/train", "--out", "figures"]) == 0


@pytest.mark.parametrize(
    ("method", "option", "default"),
    [("sla", "large_loss=true", "false"), ("frskd", "alpha=1", "2.0"), ("frskd", "beta=200", "100.0")],
)
def test_self_taught_options_are_settings(place, method, option, default):
    train(place.config(f"run.graph={method}"), stop=StopAfter(1))
    key, value = option.split("=")
    was, now = json.loads(default), type(json.loads(default))(json.loads(value))
    with pytest.raises(ConfigError, match=rf"run\.{key} was {json.dumps(was)}, is {json.dumps(now)}"):
        train(place.config(f"run.graph={method}", f"run.{option}"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--graph", "sla", "run.alpha=1"], "run.alpha=1.0 has no meaning for run.graph=sla: leave it out, or give"),
        (["--graph", "frskd", "run.temperature=2"], "or give --graph sla or student"),
        (["--graph", "dml", "--nodes", "2", "run.large_loss=true"], "run.large_loss=True has no meaning"),
        (
            ["--graph", "frskd", "--teacher", "x"],
            "/x has no meaning for run.graph=frskd: leave it out, or give --graph student",
        ),
        (["--graph", "frskd", "run.beta=-1"], "run.beta=-1.0 is not allowed: 0 or more"),
        (["--graph", "sla", "--nodes", "2"], "run.num_nodes=2 has no meaning for run.graph=sla, one network"),
        (["--graph", "frskd", "objective.unlearned=reject"], "objective.unlearned=reject has no meaning"),
        (["--graph", "sla", "network.name=abn_resnet8"], "SLA needs the stages of a plain residual network"),
        (["--graph", "frskd", "network.name=abn_resnet8"], "FRSKD needs the stages of a plain residual network"),
    ],
)
def test_self_taught_training_that_cannot_be_meant_is_one_line_and_leaves_nothing(place, capsys, argv, said):
    assert main(["train", *TINY, *argv]) in (1, 2)
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not place.runs.exists()


@both
def test_self_taught_network_of_a_users_own_is_refused(place, method):
    images, labels = torch.zeros(40, 3, 16, 16, dtype=torch.uint8), torch.arange(40) % 2

    def make():
        return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

    with pytest.raises(NetworkError, match="needs the stages of a plain residual network"):
        kdhpc.train(method, dataset=(images, labels), network=make, epochs=1, batch_size=8)


def test_help_of_train_teaches_the_methods_and_their_options(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "sla a network that also tells rotations apart" in out
    for option in ("run.large_loss", "run.alpha, run.beta", "run.teacher_node", "run.distillation_weight"):
        assert option in out
