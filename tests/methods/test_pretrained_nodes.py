"""Nodes that nothing teaches, with weights from a file: by their own statistics, or by each batch's."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from kdhpc.config.schema import ObjectiveConfig
from kdhpc.errors import ConfigError, NetworkError
from kdhpc.graph.spec import Design, Gate
from kdhpc.methods.graph import GraphModel
from kdhpc.networks.build import build_network
from kdhpc.networks.weights import weights_digest
from kdhpc.training.learner import Learner
from kdhpc.training.schedule import ScheduleStep
from tests.training.memory_source import IMAGE_SIZE, NETWORK, NUM_CLASSES, MemoryEval, MemoryTrain, graph_of, setting_of

THROUGH, CUTOFF = Gate.THROUGH, Gate.CUTOFF
# Node 2 teaches node 1, by its probabilities, and learns nothing.
GRAPH = graph_of([[CUTOFF, CUTOFF], [THROUGH, CUTOFF]], labels=[CUTOFF, CUTOFF], design=Design.PROB_CLOSER)


@pytest.fixture
def teacher(tmp_path):
    torch.manual_seed(3)
    network = build_network(NETWORK, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE)
    with torch.no_grad():
        for images, _ in MemoryTrain().specs(1, 1):
            network(images)
    save_file(network.state_dict(), tmp_path / "teacher.safetensors")
    return network


@pytest.fixture
def objective(teacher, tmp_path):
    return ObjectiveConfig(unlearned="pretrained", pretrained={NETWORK.name: str(tmp_path / "teacher.safetensors")})


def learner_of(objective):
    setting = setting_of(objective=objective)
    return Learner(GraphModel(GRAPH, setting, 0), setting.training)


def steps(learner, first=0, last=4):
    batches = list(MemoryTrain().epoch(seed=0, epoch=1))
    return [
        learner.step(batches[step], ScheduleStep(epoch=1, step=step + 1, num_steps=8)) for step in range(first, last)
    ]


@pytest.mark.parametrize("norm", ["running", "batch"])
def test_frozen_node_teaches_by_the_statistics_that_are_asked_for(teacher, objective, norm):
    learner = learner_of(replace(objective, unlearned_norm=norm))
    student = learner.networks[0]
    batch = next(iter(MemoryTrain().epoch(seed=0, epoch=1)))
    teacher.train(norm == "batch")
    with torch.no_grad():
        before = student(batch.images).logits  # Batch statistics, as it trains.
        target = teacher(batch.images).logits
    expected = F.kl_div(before.log_softmax(1), target.log_softmax(1), log_target=True, reduction="batchmean")
    # That forward pass moved the student's statistics, which no loss of a network in training depends on.
    assert steps(learner, 0, 1)[0][0].item() == pytest.approx(expected.item(), rel=1e-4)
    frozen = learner.networks[1].state_dict()
    for name, tensor in teacher.state_dict().items():
        assert torch.allclose(frozen[name].float(), tensor.float(), rtol=1e-5), name
    learner.evaluate(MemoryEval())
    assert learner.networks[1].training is (norm == "batch")


def test_batch_statistics_of_a_frozen_node_move_and_its_weights_stay(teacher, objective):
    learner = learner_of(replace(objective, unlearned_norm="batch"))
    steps(learner)
    changed = {
        name for name, now in learner.networks[1].state_dict().items() if not now.equal(teacher.state_dict()[name])
    }
    moving = {name for name, _ in teacher.named_buffers()}
    assert changed == moving


def test_frozen_node_that_moves_its_statistics_resumes_bit_for_bit(objective):
    objective = replace(objective, unlearned_norm="batch")
    whole, begun, resumed = learner_of(objective), learner_of(objective), learner_of(objective)
    expected = steps(whole)
    steps(begun, 0, 2)
    resumed.restore(begun.state())
    assert all(one.equal(other) for one, other in zip(steps(resumed, 2, 4), expected[2:], strict=True))
    for one, other in zip(resumed.state(), whole.state(), strict=True):
        assert all(tensor.equal(other.tensors[name]) for name, tensor in one.tensors.items())
    assert resumed.evaluate(MemoryEval()) == whole.evaluate(MemoryEval())


def test_file_for_its_network_alone_is_the_same_as_one_for_all(objective):
    path = objective.pretrained[NETWORK.name]
    single = replace(objective, pretrained=path)
    named = replace(objective, pretrained={NETWORK.name: path, "resnet14": path})
    assert weights_digest(single, [NETWORK.name]) == weights_digest(named, [NETWORK.name])
    assert weights_digest(named, [NETWORK.name, "resnet14"]) not in (weights_digest(single), None)
    assert steps(learner_of(single), 0, 1)[0].equal(steps(learner_of(named), 0, 1)[0])
    with pytest.raises(NetworkError, match="no file for network 'resnet8'"):
        learner_of(replace(objective, pretrained={"resnet14": path}))


def test_batch_statistics_without_pretrained_nodes_are_an_error():
    with pytest.raises(ConfigError, match=r"objective\.unlearned_norm=batch has no meaning"):
        ObjectiveConfig(unlearned_norm="batch")
