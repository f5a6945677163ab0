import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save, save_file
from torch import nn

from kdhpc.graph.spec import Gate
from kdhpc.methods.graph import GraphMethod
from kdhpc.networks.build import build_network
from kdhpc.networks.one import build_one
from kdhpc.training.counters import BatchCounters
from tests.methods.test_graph import learner_of, train
from tests.training.memory_source import (
    ATTENTION_BRANCH,
    IMAGE_SIZE,
    NETWORK,
    NUM_CLASSES,
    OBJECTIVE,
    MemoryTrain,
    mutual,
)


def counters_of(tensors):
    return {name: int(tensor) for name, tensor in tensors.items() if name.endswith("num_batches_tracked")}


def networks_of(num_networks):
    torch.manual_seed(0)
    return [
        build_network(ATTENTION_BRANCH, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE) for _ in range(num_networks)
    ]


def test_counters_advance_as_batch_norms_own_do():
    (ours,) = networks_of(1)
    theirs = copy.deepcopy(ours)
    counters = BatchCounters([ours])
    for batch in MemoryTrain().epoch(seed=0, epoch=1):
        ours(batch.images)
        counters.count()
        theirs(batch.images)
    assert set(counters_of(ours.state_dict()).values()) == {4}
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name


def test_counters_are_one_tensor_of_which_weights_that_are_loaded_leave_the_memory():
    networks = networks_of(2)
    counters = BatchCounters(networks)
    loaded = networks_of(1)[0].state_dict()
    next(tensor for name, tensor in loaded.items() if name.endswith("num_batches_tracked")).fill_(7)
    networks[1].load_state_dict(loaded)
    counters.count()
    assert sorted(counters_of(networks[1].state_dict()).values())[-2:] == [1, 8]
    assert set(counters_of(networks[0].state_dict()).values()) == {1}


def test_counters_of_frozen_networks_stay():
    networks = networks_of(3)
    counters = BatchCounters(networks)
    counters.freeze((1,))
    counters.count()
    counters.freeze(())
    counters.count()
    assert [set(counters_of(network.state_dict()).values()) for network in networks] == [{2}, {1}, {2}]


def test_counters_start_where_networks_are():
    (network,) = networks_of(1)
    network(torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE))
    BatchCounters([network]).count()
    assert set(counters_of(network.state_dict()).values()) == {2}


def test_counters_are_written_as_tensors_of_their_own():
    networks = networks_of(2)
    BatchCounters(networks).count()
    weights = networks[1].state_dict()
    assert load(save({name: tensor.contiguous() for name, tensor in weights.items()})).keys() == weights.keys()
    assert len(save({name: tensor for name, tensor in weights.items() if "num_batches" in name})) < 3000


def test_a_copy_of_a_network_counts_by_itself():
    (network,) = networks_of(1)
    counters = BatchCounters([network])
    copied = copy.deepcopy(network)
    copied(torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE))
    assert set(counters_of(copied.state_dict()).values()) == {1}
    assert set(counters_of(network.state_dict()).values()) == {0}
    counters.count()
    assert set(counters_of(network.state_dict()).values()) == {1}
    assert {type(part) for part in copied.modules() if isinstance(part, nn.BatchNorm2d)} == {nn.BatchNorm2d}


def test_counters_of_one_include_its_gate():
    network = build_one(NETWORK, num_branches=2, num_classes=NUM_CLASSES)
    BatchCounters([network]).count()
    assert set(counters_of(network.state_dict()).values()) == {1}


@pytest.mark.parametrize("frozen", [False, True])
def test_a_learners_state_holds_the_batches_that_each_node_has_seen(tmp_path, frozen):
    objective = OBJECTIVE
    if frozen:
        weights = build_network(NETWORK, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE).state_dict()
        save_file(weights, tmp_path / "weights.safetensors")
        objective = replace(OBJECTIVE, unlearned="pretrained", pretrained=str(tmp_path / "weights.safetensors"))
    learner = learner_of(mutual(gate=Gate.CUTOFF, label=Gate.CUTOFF), objective=objective)
    train(learner, num_steps=3)
    expected = 0 if frozen else 3
    assert [set(counters_of(node.tensors).values()) for node in learner.state()] == [{expected}, {expected}]
    learner.restart(GraphMethod(graph=mutual()), seed=1)
    train(learner, num_steps=1)
    assert [set(counters_of(node.tensors).values()) for node in learner.state()] == [{1}, {1}]
