"""Students of trainings that are done: what is taught, named, refused, gone on with and listed."""

import csv
import io
import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import kdhpc
from kdhpc.cli.main import main
from kdhpc.config.paths import RunPaths
from kdhpc.errors import ConfigError, KdhpcError
from kdhpc.final.finished import open_finished
from kdhpc.final.result import read_result
from kdhpc.methods.load import load_method
from kdhpc.methods.one import OneMethod
from tests.final.conftest import TINY, Place
from tests.final.test_final import StopAfter, same, train, weights_of
from tests.training.memory_source import setting_of

STUDENT = ("run.graph=student", "run.teacher=runs/train/teacher/seed0")


@pytest.fixture(scope="session")
def done(shared, tmp_path_factory):
    """Two-node, one-node and ONE runs that are done, for tests to copy."""
    place = Place(tmp_path_factory.mktemp("teachers"), shared)
    for graph, nodes, name in (("dml", "2", "teacher"), ("independent", "1", "single"), ("one", "2", "branched")):
        run = place.run("train", "--graph", graph, "--nodes", nodes, *TINY, f"run.name={name}")
        assert run.returncode == 0, run.stderr
    return place.runs


@pytest.fixture
def taught(place, done):
    """A place with those runs."""
    shutil.copytree(done, place.runs)
    return place


def test_train_student_of_one_node_then_its_own_student(taught):
    first = taught.run("train", "--graph", "student", "--teacher", "runs/train/single/seed0", *TINY)
    assert first.returncode == 0, first.stderr
    name = "tiny-resnet8-student-of-single-seed0"
    assert first.stdout.startswith(f"{name} seed 0: ensemble ")
    second = taught.run("train", "--graph", "student", "--teacher", f"runs/train/{name}/seed0", *TINY)
    assert second.returncode == 0, second.stderr
    assert second.stdout.startswith(f"tiny-resnet8-student-of-{name}-seed0 seed 0: ensemble ")


def test_train_student_of_two_nodes_as_jobs_with_its_table(taught):
    """Seeds and two teachers, by a path that is relative to where the command is given."""
    command = ("train", "--graph", "student", "--teacher", "runs/train/teacher/seed0,runs/train/single/seed0")
    swept = taught.run(
        *(*command, "--seeds", "0..1", "--launcher", "submitit_local"),
        *("dataset=tiny", "network=tiny", "training=tiny"),
        "network.name=abn_resnet8",
    )
    assert swept.returncode == 0, swept.stderr
    assert len(swept.stdout.splitlines()) == 4
    assert swept.stderr.count("\n") == 1  # Where the logs are.
    table = taught.run("results", "--format", "csv")
    rows = {row["training"]: row for row in csv.DictReader(io.StringIO(table.stdout))}
    row = rows["tiny-abn_resnet8-student-of-teacher-seed0"]
    assert (row["graph"], row["nodes"], row["seeds"], row["teacher"]) == ("student", "1", "0 1", "teacher-seed0")
    teacher = read_result(RunPaths.of("teacher", 0).result)
    assert float(row["teacher_accuracy"]) == teacher.ensemble_accuracy
    assert (rows["teacher"]["teacher"], rows["teacher"]["teacher_accuracy"]) == ("", "")
    assert "student-of-teacher-seed0" in taught.run("results").stdout


def test_train_final_student_leaves_one_network_and_its_teacher_as_it_was(taught):
    before = {path: path.read_bytes() for path in RunPaths.of("teacher", 0).root.iterdir()}
    result, _ = train(taught.config(*STUDENT))
    paths = RunPaths.of("tiny-resnet8-student-of-teacher-seed0", 0)
    assert (result.graph, result.num_nodes, result.teacher) == ("student", 1, "teacher-seed0")
    assert result.node_accuracies == (result.ensemble_accuracy,)
    assert result.num_parameters == read_result(RunPaths.of("single", 0).result).num_parameters
    assert sorted(path.name for path in paths.root.glob("*.safetensors")) == ["node1.safetensors"]
    assert not paths.graph.exists()
    assert {path: path.read_bytes() for path in RunPaths.of("teacher", 0).root.iterdir()} == before
    assert json.loads(paths.settings.read_text())["run.temperature"] == 1.0
    # Without a teacher, the same seed ends elsewhere; the temperature matters, too.
    train(taught.config("run.num_nodes=1"))
    train(taught.config(*STUDENT, "run.temperature=4", "run.name=soft"))
    ends = [weights_of(name) for name in (result.name, "tiny-resnet8-independent1", "soft")]
    assert not any(same(ends[first], ends[second]) for first, second in ((0, 1), (0, 2), (1, 2)))


def test_train_final_student_stopped_anywhere_ends_with_the_same_weights(taught):
    whole, _ = train(taught.config(*STUDENT, "run.name=whole"))
    result, rounds = None, 0
    while result is None:
        result, _ = train(taught.config(*STUDENT, "run.name=pieces"), stop=StopAfter(3))
        rounds += 1
    assert rounds == 3
    assert same(weights_of("pieces"), weights_of("whole"))
    assert result.ensemble_accuracy == whole.ensemble_accuracy


def test_train_final_student_teacher_counts_by_its_content(taught):
    config = taught.config(*STUDENT, "run.name=mine")
    train(config, stop=StopAfter(3))
    moved = taught.folder / "elsewhere"
    RunPaths.of("teacher", 0).root.rename(moved)
    again = taught.config("run.graph=student", f"run.teacher={moved}", "run.name=mine")
    assert train(again, stop=StopAfter(3))[0] is None
    with pytest.raises(ConfigError, match=r"run\.temperature was 1\.0, is 2\.0") as error:
        train(taught.config("run.graph=student", f"run.teacher={moved}", "run.name=mine", "run.temperature=2"))
    assert "teacher.weights" not in str(error.value)
    path = moved / "node2.safetensors"
    save_file(
        {name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()}, path
    )
    with pytest.raises(ConfigError, match=r"teacher\.weights was \"\w{16}\", is \"\w{16}\""):
        train(again)


def test_train_final_student_of_one_node_is_told_apart_from_that_of_the_ensemble(taught):
    teacher = read_result(RunPaths.of("teacher", 0).result)
    train(taught.config(*STUDENT))
    names = []
    for node in (1, 2):
        config = taught.config(*STUDENT, f"run.teacher_node={node}")
        result, _ = train(config)
        assert (result.teacher, result.teacher_accuracy) == (
            f"teacher-seed0-node{node}",
            teacher.node_accuracies[node - 1],
        )
        names.append(result.name)
    assert names == [f"tiny-resnet8-student-of-teacher-seed0-node{node}" for node in (1, 2)]
    ends = [weights_of(name) for name in (*names, "tiny-resnet8-student-of-teacher-seed0")]
    assert not any(same(ends[first], ends[second]) for first, second in ((0, 1), (0, 2), (1, 2)))
    settings = [json.loads(RunPaths.of(name, 0).settings.read_text()) for name in names]
    assert [one["run.teacher_node"] for one in settings] == [1, 2]
    assert len({one["teacher.weights"] for one in settings}) == 2
    with pytest.raises(ConfigError, match=r"run\.teacher_node was 1, is null"):
        train(taught.config(*STUDENT, f"run.name={names[0]}"))


def test_train_final_student_of_one_node_learns_what_a_run_of_that_node_alone_teaches(taught):
    """A single-node run is its own mean: with its weights as those of a node, the student is the same."""
    for path in (RunPaths.of("single", 0), RunPaths.of("teacher", 0)):
        assert path.weights(0).exists()
    shutil.copy(RunPaths.of("single", 0).weights(0), RunPaths.of("teacher", 0).weights(1))
    result = RunPaths.of("teacher", 0).result
    document = json.loads(result.read_text())
    document["weights"][1] = json.loads(RunPaths.of("single", 0).result.read_text())["weights"][0]
    result.write_text(json.dumps(document))
    train(taught.config(*STUDENT, "run.teacher_node=2", "run.name=ours"))
    train(taught.config("run.graph=student", "run.teacher=runs/train/single/seed0", "run.name=theirs"))
    assert same(weights_of("ours"), weights_of("theirs"))


def test_train_final_student_weight_of_the_distillation_is_a_setting_that_matters(taught):
    train(taught.config(*STUDENT, "run.name=sum"))
    train(taught.config(*STUDENT, "run.name=weighted", "run.distillation_weight=0.9"))
    settings = [json.loads(RunPaths.of(name, 0).settings.read_text()) for name in ("sum", "weighted")]
    # What an earlier version wrote: its students go on.
    assert settings[0].keys() == settings[1].keys() - {"run.distillation_weight"}
    assert not same(weights_of("sum"), weights_of("weighted"))
    with pytest.raises(ConfigError, match=r"run\.distillation_weight was 0\.9, is null"):
        train(taught.config(*STUDENT, "run.name=weighted"))


def test_train_final_student_of_one_learns_from_the_gated_ensemble(taught):
    config = taught.config("run.graph=student", "run.teacher=runs/train/branched/seed0")
    result, _ = train(config)
    teacher = read_result(RunPaths.of("branched", 0).result)
    assert (result.teacher, result.teacher_accuracy) == ("branched-seed0", teacher.ensemble_accuracy)
    method = load_method(config, open_finished)
    (gated,) = method.model(setting_of(num_classes=2), 0).teachers
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    expected = kdhpc.load(RunPaths.of("branched", 0).root, device="cpu").predict(images)
    torch.testing.assert_close(gated(images / 255).logits.softmax(dim=1), expected)


def test_train_student_of_a_method_that_cannot_teach_is_refused(taught, monkeypatch):
    monkeypatch.setattr(OneMethod, "no_teacher", "which says nothing")
    with pytest.raises(ConfigError, match="is a run of ONE, which says nothing: give a run of a graph"):
        train(taught.config("run.graph=student", "run.teacher=runs/train/branched/seed0"))


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_train_final_student_of_another_network_in_another_precision(taught, precision):
    result, _ = train(taught.config(*STUDENT, "network.name=abn_resnet14", f"device.precision={precision}"))
    assert (result.network, result.precision) == ("abn_resnet14", precision)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), None),
        (("network.crops=[1]", "network.name=resnet14"), None),
        (("dataset.subset=32",), "dataset.subset null; its student is trained with dataset.subset 32"),
        (("run.split=search",), "run.split official; its student is trained with run.split search"),
        (("dataset.mean=[0.5]", "dataset.std=[2]"), "dataset.mean null, dataset.std null; its student is trained with"),
    ],
)
def test_train_final_student_on_other_images_than_its_teacher_says_so_in_one_line(taught, caplog, overrides, said):
    with caplog.at_level(logging.WARNING):
        train(taught.config(*STUDENT, *overrides))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (said is not None)
    assert said is None or said in messages[0]


def test_train_final_student_on_another_data_set_says_so(taught, caplog):
    settings = RunPaths.of("teacher", 0).settings
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "dataset.checksum": "f" * 64}))
    with caplog.at_level(logging.WARNING):
        train(taught.config(*STUDENT))
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"was trained with dataset_checksum {'f' * 16}; its student" in message


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--graph", "student"], 2, "needs a teacher: give --teacher"),
        (
            ["--graph", "dml", "--nodes", "2", "--teacher", "runs/train/teacher/seed0"],
            2,
            "has no meaning for run.graph=dml",
        ),
        (["--graph", "dml", "--nodes", "2", "run.temperature=2"], 2, "run.temperature=2.0 has no meaning"),
        (["--graph", "student", "--teacher", "nowhere"], 2, "nowhere is no folder"),
        (["--graph", "student", "--teacher", "runs"], 2, "is no run of `kdhpc train`"),
        (["--graph", "student", "--teacher", "runs/train/teacher"], 2, "holds several runs (seed0)"),
        (
            ["--graph", "student", "--teacher", "runs/train/branched/seed0", "--teacher-node", "1"],
            2,
            "is a run of ONE, whose branches are no networks of their own: leave run.teacher_node=1 out",
        ),
        (
            ["--graph", "student", "--teacher", "runs/train/teacher/seed0", "--teacher-node", "3"],
            2,
            "runs/train/teacher/seed0 has the nodes 1 to 2",
        ),
        (
            ["--graph", "student", "--teacher", "runs/train/single/seed0", "--teacher-node", "2"],
            2,
            "has a single node, 1",
        ),
        (["--graph", "student", "--teacher", "runs", "--teacher-node", "0"], 2, "run.teacher_node=0 is not allowed"),
        (["--graph", "dml", "--nodes", "2", "--teacher-node", "1"], 2, "run.teacher_node=1 has no meaning"),
        (
            ["--graph", "student", "--teacher", "runs/train/teacher/seed0", "run.distillation_weight=1.5"],
            2,
            "run.distillation_weight=1.5 is not allowed: in [0, 1], or null",
        ),
        (["--graph", "one", "--nodes", "2", "run.distillation_weight=0.5"], 2, "or give --graph student"),
        (["--graph", "student", "--nodes", "2", "--teacher", "runs/train/teacher/seed0"], 2, "run.num_nodes=2"),
        (
            ["--graph", "student", "--teacher", "runs/train/teacher/seed0", "objective.unlearned=reject"],
            2,
            "has no meaning for run.graph=student",
        ),
        (["--graph", "student", "--teacher", "runs/train/teacher/seed0", "run.temperature=0"], 2, "run.temperature=0"),
        (
            ["--graph", "student", "--teacher", "runs/train/teacher/seed0", "run.temperature=1,2"],
            2,
            "are both called tiny-resnet8-student-of-teacher-seed0",
        ),
    ],
)
def test_train_student_that_cannot_be_meant_is_one_line_and_leaves_nothing(taught, capsys, argv, code, said):
    before = sorted(taught.folder.rglob("*"))
    assert main(["train", *TINY, *argv]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert sorted(taught.folder.rglob("*")) == before


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def with_classes(path):
    """Weights as of a training with five classes."""
    weights = load_file(path)
    save_file({**weights, "head.fc.weight": torch.zeros(5, 64), "head.fc.bias": torch.zeros(5)}, path)


def of_another_network(path):
    save_file({"head.fc.weight": torch.zeros(2, 64)}, path)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("result.json", lambda path: path.unlink(), "is not done, the command that began it goes on"),
        ("result.json", lambda path: path.write_text("{}"), "is not a result of a final training"),
        ("config.yaml", lambda path: path.write_text("dataset: ["), "config.yaml, line 1 cannot be read"),
        ("settings.json", lambda path: path.write_text("[]"), "settings.json cannot be understood"),
        ("settings.json", lambda path: path.unlink(), "settings.json cannot be read"),
        ("node2.safetensors", lambda path: path.unlink(), "node2.safetensors cannot be read"),
        ("node2.safetensors", cut, "node2.safetensors cannot be read as safetensors"),
        ("node1.safetensors", with_classes, "tells 5 classes of tiny apart, this data set has 2"),
        ("node1.safetensors", of_another_network, "for tensor 'head.fc.bias', this network has"),
    ],
)
def test_train_final_student_of_a_damaged_teacher_is_refused(taught, name, damage, said):
    damage(RunPaths.of("teacher", 0).root / name)
    with pytest.raises(KdhpcError) as error:
        train(taught.config(*STUDENT))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not RunPaths.of("tiny-resnet8-student-of-teacher-seed0", 0).root.exists()
