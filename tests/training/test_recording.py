"""Recorded steps, with everything but the GPU: for a CUDA graph stands what does a step's work on the same tensors."""

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from kdhpc.config.schema import DeviceConfig, NetworkConfig
from kdhpc.data.store import StreamedImages
from kdhpc.graph.spec import Gate
from kdhpc.training.learner import Moment
from kdhpc.training.loop import EnsembleTraining
from kdhpc.training.programs import programs
from tests.losses.paper_reference import random_graph
from tests.training.memory_source import (
    CPU,
    IMAGE_SIZE,
    NETWORK,
    NUM_CLASSES,
    OBJECTIVE,
    MemoryBatch,
    MemoryEval,
    MemoryTrain,
    mutual,
    training_config,
)
from tests.training.test_ensemble import learner_of
from tests.training.test_loop import never, without_time
from tests.training.test_packed_resume import training_of as packed_training

EPOCHS = 5


class Recordings:
    """Replays write where the first one wrote, as a CUDA graph's do."""

    def __init__(self):
        self.made = 0

    def __call__(self, function):
        self.made += 1
        output = None

        def replay():
            nonlocal output
            result = function()
            output = result.clone() if output is None else output.copy_(result)
            return output

        return replay


def training_of(graph, *, record=None, seed=0):
    training = EnsembleTraining(
        graph=graph,
        network=NETWORK,
        objective=OBJECTIVE,
        training=training_config(epochs=EPOCHS, milestones=(4,)),
        device=CPU,
        train=MemoryTrain(),
        evaluation=MemoryEval(),
        num_classes=NUM_CLASSES,
        seed=seed,
        programs=programs(None, record),
    )
    return training


def assert_close_state(one, other):
    # A recorded step's learning rate is a float32 on the device.
    for ours, theirs in zip(one.nodes, other.nodes, strict=True):
        for tensors in ("tensors", "momentum"):
            torch.testing.assert_close(getattr(ours, tensors), getattr(theirs, tensors), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_recorded_steps_train_as_steps_that_are_not(seed):
    graph = random_graph(np.random.default_rng(seed), 3)
    recorded, plain = training_of(graph, record=(recordings := Recordings())), training_of(graph)
    for ours, theirs in zip(recorded.epochs(never), plain.epochs(never), strict=True):
        np.testing.assert_allclose(ours.train_losses, theirs.train_losses, rtol=1e-5, atol=1e-6)
        assert ours.node_accuracies == theirs.node_accuracies
    assert_close_state(recorded.state(), plain.state())
    assert (recorded.mode, plain.mode) == ("eager cudagraph", "eager")
    assert recordings.made == 1


def test_one_recording_serves_the_trials_that_follow():
    rng = np.random.default_rng(0)
    training = training_of(random_graph(rng, 3), record=(recordings := Recordings()))
    for seed in range(1, 5):
        list(training.epochs(never))
        graph = random_graph(rng, 3)
        training.restart(graph, seed)
        fresh = training_of(graph, seed=seed)
        for ours, theirs in zip(training.steps(), fresh.steps(), strict=True):
            assert (ours is None) == (theirs is None)
        assert_close_state(training.state(), fresh.state())
    assert recordings.made == 1


def test_restart_eager_gives_the_bits_of_a_new_training():
    rng = np.random.default_rng(0)
    training = training_of(random_graph(rng, 2))
    graph = random_graph(rng, 2)
    list(training.epochs(lambda: training.step >= 6))
    training.restart(graph, 7)
    assert (training.epoch, training.step) == (0, 0)
    assert without_time(training.epochs(never)) == without_time(training_of(graph, seed=7).epochs(never))


def test_tensors_that_a_recording_uses_never_move():
    learner = learner_of(mutual(num_nodes=3), backend=None, record=Recordings())

    def addresses():
        networks = [tensor for network in learner.networks for tensor in network.state_dict().values()]
        momenta = [tensor for node in learner._nodes for tensor in node._momentum().values()]
        rates = [group["lr"] for node in learner._nodes for group in node._optimizer.param_groups]
        return [tensor.data_ptr() for tensor in [*networks, *momenta, *rates, *learner._coefficients, learner._ramp]]

    before = addresses()
    batches = list(MemoryTrain().epoch(seed=0, epoch=1))
    learner.step(batches[0], Moment(epoch=1, step=1, num_steps=8))
    state = learner.state()
    learner.step(batches[1], Moment(epoch=2, step=2, num_steps=8))
    learner.restore(state)
    learner.evaluate(MemoryEval())
    learner.restart(mutual(gate=Gate.LINEAR, num_nodes=3), 5)
    learner.step(batches[2], Moment(epoch=1, step=1, num_steps=8))
    assert addresses() == before


def refuses(function):
    function()  # As far as it came, it has done harm.
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")


def forgets(function):
    """Replays the losses, and not the update."""
    first = function()
    return lambda: first


@pytest.mark.parametrize(
    ("record", "reason"),
    [(refuses, "RuntimeError: CUDA error: operation not"), (forgets, "replays gave losses")],
)
def test_recording_that_fails_is_told_once_and_harms_nothing(record, reason, caplog):
    programs.cache_clear()
    graph = mutual(num_nodes=2)
    first, second, plain = training_of(graph, record=record), training_of(graph, record=record), training_of(graph)
    assert first.mode == "eager cudagraph"
    with caplog.at_level(logging.WARNING):
        reports = list(first.epochs(never))
        list(second.epochs(never))
    assert first.mode == second.mode == "eager"
    for ours, theirs in zip(reports, plain.epochs(never), strict=True):
        np.testing.assert_allclose(ours.train_losses, theirs.train_losses, rtol=1e-5)
    assert_close_state(first.state(), plain.state())
    (message,) = [entry.getMessage() for entry in caplog.records if entry.name.startswith("kdhpc")]
    assert reason in message
    assert "more lines" not in message


class ForgetsStatistics:
    """Replays all but the update of a buffer that no loss of the next steps depends on."""

    networks = ()

    def __call__(self, function):
        def replay():
            losses = function()
            for network in self.networks:
                network.lower.bn1.running_mean.zero_()
            return losses

        return replay


def test_recording_that_leaves_another_state_is_not_used(caplog):
    programs.cache_clear()
    record = ForgetsStatistics()
    training = training_of(mutual(num_nodes=2), record=record)
    record.networks = training.networks
    with caplog.at_level(logging.WARNING):
        next(training.steps())
    assert training.mode == "eager"
    (message,) = [entry.getMessage() for entry in caplog.records if entry.name.startswith("kdhpc")]
    assert message.endswith("a replay left another lower.bn1.running_mean of node 1 than a step")


def out_of_memory(function):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_memory_that_ends_while_recording_is_the_callers_matter():
    programs.cache_clear()
    training = training_of(mutual(num_nodes=2), record=out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        next(training.steps())
    assert training.mode == "eager cudagraph"


@pytest.mark.parametrize("placement", ["disk", "streamed"])
@pytest.mark.parametrize("augmentation", ["pad_crop", "resized_crop"])
def test_recorded_steps_make_their_batches_as_steps_that_are_not(augmentation, placement, monkeypatch):
    if placement == "streamed":
        monkeypatch.setattr("kdhpc.data.batches.store_images", StreamedImages)
    recorded = packed_training(augmentation, programs(None, recordings := Recordings()))
    plain = packed_training(augmentation)
    for ours, theirs in zip(recorded.epochs(never), plain.epochs(never), strict=True):
        np.testing.assert_allclose(ours.train_losses, theirs.train_losses, rtol=1e-5, atol=1e-6)
        assert ours.node_accuracies == theirs.node_accuracies
    assert_close_state(recorded.state(), plain.state())
    assert recordings.made == 1
    assert recorded.mode == "eager cudagraph"


def fake_step(device, *, precision="bf16"):
    """A step on tensors without values: whatever would wait for one raises."""
    learner = learner_of(
        mutual(num_nodes=3),
        network=NetworkConfig(name="abn_resnet8", crops=(3,)),
        device=DeviceConfig(device="cpu", precision=precision, channels_last=False),
        record=Recordings(),
        target=torch.device(device),
    )
    images = torch.zeros(4, 3, IMAGE_SIZE, IMAGE_SIZE)
    return learner, MemoryBatch(images, torch.zeros(4, dtype=torch.int64))


def test_step_never_waits_for_the_host():
    with FakeTensorMode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "to", lambda module, *args, **kwargs: module)  # Fake weights cannot be moved.
        learner, batch = fake_step("cpu")
        losses = learner.step(batch, Moment(epoch=1, step=1, num_steps=8))
        assert losses.shape == (3,)
        with pytest.raises(DataDependentOutputException):  # What a wait would have done.
            losses.sum().item()


def test_forward_and_losses_on_cuda_take_nothing_from_the_cpu():
    """Without a GPU, this is as far as CUDA tensors without values go: their backward pass needs a driver."""
    with FakeTensorMode(), torch.device("cuda", 0), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "to", lambda module, *args, **kwargs: module)
        learner, batch = fake_step("cuda:0", precision="float32")
        patch.setattr(torch.autograd, "backward", lambda losses, gradients: None)
        patch.setattr("kdhpc.training.node.Node.update", lambda node, skip: None)
        losses = learner.step(batch, Moment(epoch=1, step=1, num_steps=8))
        assert losses.device == torch.device("cuda", 0)
