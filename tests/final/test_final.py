"""Final trainings in this process: what is trained, scored, written, refused and repeated."""

import dataclasses
import errno
import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdhpc.config.document import flatten, to_document
from kdhpc.config.paths import RunPaths, packed_dir
from kdhpc.data.packed import PackedDataset
from kdhpc.errors import ConfigError, DeviceError, DeviceLostError, GraphError, KdhpcError, NetworkError
from kdhpc.final.final import train_final
from kdhpc.final.lock import hold_lock
from kdhpc.final.result import SearchedWith, read_result
from kdhpc.graph.presets import dml, independent, uniform
from kdhpc.graph.serial import read_graph, write_graph
from kdhpc.graph.spec import Design, Gate
from kdhpc.training.metrics import MetricsLog, read_metrics


def never() -> bool:
    return False


def train(config, *, stop=never):
    reports = []
    return train_final(config, show=reports.append, should_stop=stop), reports


class StopAfter:
    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        self.left -= 1
        return self.left <= 0


def cut_off(node, num_nodes=2):
    """DML, but nothing teaches one node."""
    graph = dml(num_nodes)
    edges = [dataclasses.replace(e, gate=Gate.CUTOFF) if e.target == node else e for e in graph.edges]
    gates = [Gate.CUTOFF if index == node else gate for index, gate in enumerate(graph.label_gates)]
    return dataclasses.replace(graph, label_gates=tuple(gates), edges=tuple(edges))


def weights_of(name, seed=0, node=0):
    return load_file(RunPaths.of(name, seed).weights(node))


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("graph", "nodes", "networks"), [("dml", 2, 2), ("independent", 1, 1), ("one", 3, 1)])
def test_train_final_scores_every_node_on_the_test_images(place, graph, nodes, networks):
    result, reports = train(place.config(f"run.graph={graph}", f"run.num_nodes={nodes}"))
    name = f"tiny-resnet8-{graph}{nodes}"
    paths = RunPaths.of(name, 0)
    assert (result.name, result.num_nodes, result.training_images, result.scored_on) == (name, nodes, 64, "test")
    assert len(result.node_accuracies) == nodes
    # 40 test images: every accuracy is a multiple of 2.5 %.
    assert all(accuracy % 2.5 == 0 for accuracy in (*result.node_accuracies, result.ensemble_accuracy))
    assert result.ensemble_accuracy == reports[-1].ensemble_accuracy
    assert read_result(paths.result) == result
    assert {"kdhpc", "python", "torch", "torchvision"} <= result.versions.keys()
    assert [report.epoch for report in read_metrics(paths.metrics)] == [1, 2]
    assert sorted(path.name for path in paths.root.glob("*.safetensors")) == [
        f"node{index + 1}.safetensors" for index in range(networks)
    ]
    assert not paths.checkpoint.exists()
    assert paths.graph.exists() == (graph != "one")


def test_train_final_by_one_design_is_named_by_it(place):
    result, _ = train(place.config("run.graph='uniform:att-'", "run.num_nodes=2"))
    assert result.name == "tiny-resnet8-uniform2-att-"
    assert read_graph(RunPaths.of(result.name, 0).graph) == uniform(2, Design.ATTENTION_APART)


def test_train_final_batch_of_one_image_trains_where_batch_norm_sees_several_values(place):
    assert train(place.config("run.num_nodes=1", "training.batch_size=1", "training.epochs=1"))[0] is not None


def test_train_final_done_is_not_repeated(place):
    first, _ = train(place.config("run.num_nodes=1"))
    again, reports = train(place.config("run.num_nodes=1"))
    assert (again, reports) == (first, [])


@pytest.mark.parametrize("how", [(), ("network.name=abn_resnet8",), ("device.channels_last=false",)])
def test_train_final_stopped_anywhere_ends_with_the_same_weights(place, how):
    config = place.config("run.graph=dml", "run.num_nodes=2", *how)
    whole, _ = train(dataclasses.replace(config, run=dataclasses.replace(config.run, name="whole")))
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, name="pieces"))
    result, rounds = None, 0
    while result is None:
        result, _ = train(config, stop=StopAfter(3))
        rounds += 1
    assert rounds == 3
    for node in range(2):
        assert same(weights_of("pieces", node=node), weights_of("whole", node=node))
    assert result.ensemble_accuracy == whole.ensemble_accuracy
    assert [report.epoch for report in read_metrics(RunPaths.of("pieces", 0).metrics)] == [1, 2]


def test_train_final_gpu_without_memory_ends_in_a_line(place, monkeypatch):
    def no_memory(*_):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\nand more")

    monkeypatch.setattr("kdhpc.final.final.assemble", no_memory)
    with pytest.raises(
        DeviceError, match=r"memory is used up \(RuntimeError: CUDA error: CUBLAS_.*training\.batch_size"
    ):
        train(place.config("run.num_nodes=1"))


def test_train_final_gpu_that_is_lost_ends_in_a_line_and_goes_on_from_its_checkpoint(place, monkeypatch):
    config = place.config("run.num_nodes=1")
    train(config, stop=StopAfter(2))
    illegal = torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nand more")

    def lost(*_):
        raise illegal

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        patch.setattr(torch.cuda, "synchronize", lost)
        with pytest.raises(
            DeviceLostError, match=r"cannot use its GPU any more \(AcceleratorError: CUDA error: an illegal"
        ):
            train(config, stop=lost)
    assert RunPaths.of("tiny-resnet8-independent1", 0).checkpoint.exists()
    assert train(config)[0] is not None


def test_train_final_seeds_differ(place):
    train(place.config("run.num_nodes=1"))
    train(place.config("run.num_nodes=1", "run.seed=1"))
    assert not same(weights_of("tiny-resnet8-independent1"), weights_of("tiny-resnet8-independent1", seed=1))


@pytest.mark.parametrize("seed", [0, 1])
def test_train_final_of_other_settings_is_refused_with_each_of_them(place, seed):
    train(place.config("run.num_nodes=1"), stop=StopAfter(1))
    other = place.config("run.num_nodes=1", f"run.seed={seed}", "training.epochs=3", "training.momentum=0.5")
    with pytest.raises(ConfigError) as error:
        train(other)
    assert "training.epochs was 2, is 3; training.momentum was 0.9, is 0.5" in str(error.value)
    assert "run.name=NAME" in str(error.value)


def test_train_final_how_it_runs_may_change(place):
    train(place.config("run.num_nodes=1"), stop=StopAfter(1))
    result, _ = train(place.config("run.num_nodes=1", "training.evaluate=rungs", "run.checkpoint_every_s=7"))
    assert result is not None


def test_train_final_graph_counts_by_its_content(place):
    (place.folder / "other").mkdir()
    first, second = place.folder / "mine.json", place.folder / "other" / "mine.json"
    write_graph(first, dml(2))
    write_graph(second, dml(2), {"study": "somewhere"})
    train(place.config(f"run.graph={first}"), stop=StopAfter(2))
    result, _ = train(place.config(f"run.graph={second}"))
    assert result is not None
    assert read_graph(RunPaths.of("tiny-resnet8-mine", 0).graph) == dml(2)

    write_graph(first, independent(2))
    with pytest.raises(ConfigError, match=r"graph was \"\w{12}\", is \"\w{12}\""):
        train(place.config(f"run.graph={first}"))


def exported(config, **changes):
    """What an exported graph says that was searched with that config."""
    checksum = PackedDataset.open(packed_dir(config.dataset.name)).checksum
    return {
        "study": "mine",
        "trial": 17,
        "dataset": config.dataset.name,
        "dataset_checksum": checksum,
        "network": config.network.name,
        **flatten("config", to_document(config)),
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"dataset": "same_images"}, None),
        ({"dataset": "dogs", "dataset_checksum": "f" * 64}, "dataset dogs; it is trained with dataset tiny"),
        ({"dataset_checksum": "f" * 64}, f"dataset_checksum {'f' * 16}; it is trained with dataset_checksum "),
        (
            {"network": "abn_resnet18", "config.network.crops": "[3, 7, 11]", "config.training.batch_size": 128},
            "network abn_resnet18, network.crops [3, 7, 11], training.batch_size 128; it is trained with "
            "network resnet8, network.crops [3], training.batch_size 16",
        ),
        (
            {"config.network.residual_attention": "true"},
            "network.residual_attention true; it is trained with network.residual_attention null",
        ),
    ],
)
def test_train_final_graph_searched_with_something_else_names_it_in_one_line(place, caplog, changes, said):
    config = place.config("run.graph=best.json")
    write_graph(place.folder / "best.json", dml(2), exported(config, **changes))
    with caplog.at_level(logging.WARNING):
        result, _ = train(config)
    assert result.searched.trial == 17
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (said is not None)
    assert said is None or messages[0].startswith(f"best.json was searched with {said}")


def test_train_final_graph_of_an_older_file_is_compared_as_far_as_it_says(place, caplog):
    write_graph(place.folder / "best.json", dml(2), {"dataset": "stanford_dogs", "network": "abn_resnet18"})
    with caplog.at_level(logging.WARNING):
        result, _ = train(place.config("run.graph=best.json"))
    assert result.searched == SearchedWith(dataset="stanford_dogs", network="abn_resnet18")
    assert "searched with dataset stanford_dogs, network abn_resnet18; it is trained with dataset tiny" in caplog.text


def test_train_final_of_another_precision_is_refused(place):
    result, _ = train(place.config("run.num_nodes=1"))
    assert (result.precision, result.threads) == ("float32", 1)
    for seed in (0, 1):
        with pytest.raises(ConfigError, match=r'device\.precision was "float32", is "bf16"'):
            train(place.config("run.num_nodes=1", f"run.seed={seed}", "device.precision=bf16"))
    half, _ = train(place.config("run.num_nodes=1", "run.name=half", "device.precision=bf16"))
    assert half.precision == "bf16"
    assert half.settings != result.settings


def test_train_final_damaged_checkpoint_starts_again_and_says_so(place, caplog):
    config = place.config("run.num_nodes=1", "run.name=damaged")
    train(config, stop=StopAfter(4))
    RunPaths.of("damaged", 0).checkpoint.write_bytes(b"KDHPC")
    with caplog.at_level(logging.WARNING):
        result, _ = train(config)
    assert "starts from its beginning" in caplog.text
    train(place.config("run.num_nodes=1", "run.name=whole"))
    assert same(weights_of("damaged"), weights_of("whole"))
    assert result is not None


def test_train_final_of_a_folder_in_use_is_refused(place):
    config = place.config("run.num_nodes=1", "run.name=busy")
    with hold_lock(RunPaths.of("busy", 0).lock), pytest.raises(ConfigError, match="being trained by another process"):
        train(config)
    assert train(config)[0] is not None


def test_train_final_subset_learns_from_so_many_images(place):
    result, reports = train(place.config("run.num_nodes=1", "dataset.subset=32"))
    assert (result.training_images, reports[-1].step, result.scored_on) == (32, 2 * 2, "test")


def test_train_final_on_the_search_split_never_sees_the_test_images(place):
    result, reports = train(place.config("run.num_nodes=1", "run.split=search"))
    assert (result.name, result.training_images) == ("tiny-resnet8-independent1-search", 32)
    assert (reports[-1].step, result.scored_on) == (2 * 2, "validation")


def test_train_final_unlearned_node_keeps_its_initial_weights_and_says_so(place, caplog):
    write_graph(place.folder / "cut.json", cut_off(1))
    with caplog.at_level(logging.WARNING):
        train(place.config("run.graph=cut.json", "run.name=short", "training.epochs=1"))
        train(place.config("run.graph=cut.json", "run.name=long"))
    assert "cut.json: no edge teaches node 2; it votes with its initial weights" in caplog.text
    short, long = weights_of("short", node=1), weights_of("long", node=1)
    moved = {name for name in long if not torch.equal(short[name], long[name])}
    assert moved
    assert all("running_" in name or "num_batches" in name for name in moved)
    assert not torch.equal(weights_of("short")["head.fc.weight"], weights_of("long")["head.fc.weight"])


def test_train_final_unlearned_node_under_reject_is_refused(place):
    write_graph(place.folder / "cut.json", cut_off(0))
    with pytest.raises(GraphError, match=r"no edge teaches node 1: not allowed under objective\.unlearned=reject"):
        train(place.config("run.graph=cut.json", "objective.unlearned=reject"))


def test_train_final_unlearned_node_pretrained_is_frozen_to_the_bit(place, caplog):
    train(place.config("run.num_nodes=1", "run.name=teacher"))
    path = RunPaths.of("teacher", 0).weights(0)
    write_graph(place.folder / "cut.json", cut_off(0))
    overrides = ("run.graph=cut.json", "objective.unlearned=pretrained", f"objective.pretrained={path}")
    with caplog.at_level(logging.WARNING):
        _, reports = train(place.config(*overrides, "run.name=frozen"))
    assert f"cut.json: no edge teaches node 1; it votes with frozen weights of {path}" in caplog.text
    assert same(weights_of("frozen", node=0), weights_of("teacher"))
    teacher = read_result(RunPaths.of("teacher", 0).result)
    assert [report.node_accuracies[0] for report in reports] == list(teacher.node_accuracies) * 2
    assert reports[0].train_losses[0] == 0

    # In pieces, as in one.
    pieces = place.config(*overrides, "run.name=pieces")
    assert train(pieces, stop=StopAfter(7))[0] is None
    assert train(pieces)[0] is not None
    assert same(weights_of("pieces", node=1), weights_of("frozen", node=1))

    # The file counts by its content.
    save_file(
        {name: tensor + 0 if tensor.dtype != torch.float32 else tensor * 2 for name, tensor in load_file(path).items()},
        path,
    )
    with pytest.raises(ConfigError, match=r"objective\.pretrained was"):
        train(pieces)


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        ({"head.fc.weight": torch.zeros(9, 64)}, NetworkError, r"does not fit resnet8 .*head\.fc\.bias"),
        (None, NetworkError, "cannot be read as safetensors"),
    ],
)
def test_train_final_pretrained_weights_of_something_else_are_refused(place, content, kind, said):
    path = place.folder / "w.safetensors"
    path.write_bytes(b"nothing") if content is None else save_file(content, path)
    # Also for a graph whose nodes all learn: a search must hear of it at once.
    overrides = ("run.num_nodes=2", "objective.unlearned=pretrained", f"objective.pretrained={path}")
    with pytest.raises(kind, match=said) as error:
        train(place.config(*overrides))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("objective.unlearned=pretrained",), "objective.pretrained=None is not allowed"),
        (("objective.pretrained=x.safetensors",), "objective.pretrained=x.safetensors is not allowed"),
        (("objective.unlearned=pretrained", "objective.pretrained=x.safetensors"), "x.safetensors does not exist"),
        (("run.graph=one",), "--nodes B"),
        (("run.graph=dml",), "--nodes M"),
        (("run.graph=dmll", "run.num_nodes=2"), "did you mean 'dml'"),
        (("dataset.subset=100000", "run.num_nodes=1"), "dataset.subset=100000 is not possible"),
        (("run.graph='uniform:att+'", "run.num_nodes=2", "network.crops=[99]"), r"network\.crops=\[99\] does not fit"),
        (("run.graph=one", "run.num_nodes=2", "objective.unlearned=reject"), "has no meaning for run.graph=one"),
        (("run.graph=one", "run.num_nodes=2", "training.batch_size=1"), "a channel in the gate of ONE"),
        (
            ("run.num_nodes=1", "network=resnet18", "network.crops=[1]", "training.batch_size=1"),
            r"training\.batch_size=1 is not allowed.*the last stage of resnet18, 1x1 at dataset\.image_size=16",
        ),
    ],
)
def test_train_final_cannot_be_meant_is_refused_before_anything_is_written(place, overrides, said):
    with pytest.raises(KdhpcError, match=said) as error:
        train(place.config(*overrides))
    assert "\n" not in str(error.value)
    assert not place.runs.exists()


def test_train_final_settings_file_is_readable(place):
    train(place.config("run.num_nodes=1", "run.name=x"))
    settings = json.loads(RunPaths.of("x", 0).settings.read_text())
    assert settings["training.epochs"] == 2
    assert settings["run.split"] == "official"
    assert "run.seed" not in settings


def test_train_final_timed_checkpoint_that_cannot_be_written_costs_nothing(place, caplog):
    """A folder in its place, onto which nothing can be renamed, stands for a full disk."""
    in_the_way = RunPaths.of("full", 0).checkpoint
    in_the_way.mkdir(parents=True)

    def free_at_the_end():
        if "trains on without a new checkpoint" in caplog.text and in_the_way.is_dir():
            in_the_way.rmdir()
        return False

    with caplog.at_level(logging.WARNING):
        result, _ = train(
            place.config("run.num_nodes=1", "run.name=full", "run.checkpoint_every_s=0.000001"), stop=free_at_the_end
        )
    assert "trains on without a new checkpoint" in caplog.text
    assert result is not None


def test_train_final_epoch_that_cannot_be_written_down_costs_no_training(place, caplog, monkeypatch):
    def refuse(log, line):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MetricsLog, "_append", refuse)
    with caplog.at_level(logging.WARNING):
        result, _ = train(place.config("run.num_nodes=1", "run.name=full"))
    path = RunPaths.of("full", 0).metrics
    assert f"epoch 2 is not in {path}: [Errno 28] No space left on device" in caplog.text
    assert result is not None
    assert RunPaths.of("full", 0).result.is_file()
