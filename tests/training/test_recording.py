"""Recorded steps, with everything but the GPU: for a CUDA graph stands what does a step's work on the same tensors."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from kdhpc.config.schema import DeviceConfig, NetworkConfig
from kdhpc.data.batches import BatchSpec
from kdhpc.data.store import StreamedImages
from kdhpc.errors import CaptureError
from kdhpc.graph.spec import Gate
from kdhpc.losses.coefficients import GraphCoefficients
from kdhpc.methods.graph import GraphMethod
from kdhpc.methods.one import OneMethod
from kdhpc.training.compile import programs
from kdhpc.training.device_errors import is_out_of_memory
from kdhpc.training.learner import Learner
from kdhpc.training.loop import TrainingLoop
from kdhpc.training.schedule import ScheduleStep
from kdhpc.training.step import TrainingStep
from tests.losses.paper_reference import random_graph
from tests.methods.test_graph import learner_of
from tests.training.memory_source import (
    ATTENTION_BRANCH,
    CPU,
    IMAGE_SIZE,
    NETWORK,
    MemoryBatch,
    MemoryEval,
    MemoryTrain,
    mutual,
    runtime_of,
    setting_of,
    training_config,
)
from tests.training.test_loop import never, without_time
from tests.training.test_packed_resume import training_of as packed_training

EPOCHS = 5
DEEP_ATTENTION_BRANCH = NetworkConfig(name="abn_resnet20", crops=(1, 3))


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


def training_of(graph, *, record=None, seed=0, device=CPU):
    setting = setting_of(
        training=training_config(epochs=EPOCHS, milestones=(4,)),
        runtime=runtime_of(device, programs=programs(None, record)),
    )
    return TrainingLoop(GraphMethod(graph=graph), setting, seed)


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
        training.restart(GraphMethod(graph=graph), seed)
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
    training.restart(GraphMethod(graph=graph), 7)
    assert (training.epoch, training.step) == (0, 0)
    assert without_time(training.epochs(never)) == without_time(training_of(graph, seed=7).epochs(never))


def test_tensors_that_a_recording_uses_never_move():
    learner = learner_of(mutual(num_nodes=3), backend=None, record=Recordings())

    def addresses():
        networks = [tensor for network in learner.networks for tensor in network.state_dict().values()]
        momenta = [tensor for node in learner._nodes for tensor in node._momentum().values()]
        rates = [group["lr"] for node in learner._nodes for group in node._optimizer.param_groups]
        return [
            tensor.data_ptr()
            for tensor in [*networks, *momenta, *rates, *learner.model._coefficients, learner.model._ramp]
        ]

    before = addresses()
    batches = list(MemoryTrain().epoch(seed=0, epoch=1))
    learner.step(batches[0], ScheduleStep(epoch=1, step=1, num_steps=8))
    state = learner.state()
    learner.step(batches[1], ScheduleStep(epoch=2, step=2, num_steps=8))
    learner.restore(state)
    learner.evaluate(MemoryEval())
    learner.restart(GraphMethod(graph=mutual(gate=Gate.LINEAR, num_nodes=3)), 5)
    learner.step(batches[2], ScheduleStep(epoch=1, step=1, num_steps=8))
    assert addresses() == before


@pytest.fixture
def fp16(monkeypatch):
    """A device config that a CPU can run as well, and is refused for being slow."""
    monkeypatch.setattr("kdhpc.training.device._why_not", lambda precision, device: None)
    return DeviceConfig(precision="fp16", channels_last=False)


def test_fp16_recorded_steps_scale_as_steps_that_are_not_and_one_recording_serves_the_trials_that_follow(fp16):
    """Of the first steps some overflow: they are left out, and halve the scale, where it lies."""
    programs.cache_clear()
    rng = np.random.default_rng(0)
    recorded = training_of(random_graph(rng, 3), record=(recordings := Recordings()), device=fp16)
    list(recorded.epochs(never))
    for seed in (1, 2):
        graph = random_graph(rng, 3)
        recorded.restart(GraphMethod(graph=graph), seed)
        plain = training_of(graph, seed=seed, device=fp16)
        assert recorded.state().nodes[0].loss_scale == plain.state().nodes[0].loss_scale, "from the beginning"
        for node in (*recorded._learner._nodes, *plain._learner._nodes):
            node._scaler.load_state_dict({**node._scaler.state_dict(), "scale": 2.0**24})
        list(recorded.epochs(never))
        list(plain.epochs(never))
        assert recorded.step == plain.step > 0
        for ours, theirs in zip(recorded.state().nodes, plain.state().nodes, strict=True):
            assert ours.loss_scale == theirs.loss_scale
            assert ours.loss_scale["scale"] < 2.0**24, "none has overflown: this shows nothing"
        assert_close_state(recorded.state(), plain.state())
    assert recorded.mode == "eager cudagraph"
    assert recordings.made == 1


def test_fp16_tensors_of_the_loss_scale_never_move(fp16):
    training = training_of(mutual(num_nodes=2), record=Recordings(), device=fp16)
    next(training.steps())
    nodes = training._learner._nodes

    def addresses():
        return [tensor.data_ptr() for node in nodes for tensor in (node._scaler._scale, node._scaler._growth_tracker)]

    before, state = addresses(), training.state()
    training.restart(GraphMethod(graph=mutual(gate=Gate.LINEAR, num_nodes=2)), 5)
    next(training.steps())
    training.restore(state)
    next(training.steps())
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
    [(refuses, "RuntimeError: CUDA error: operation not"), (forgets, "a replay came to another loss 1 than a step")],
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
    assert "a replay came to another lower.bn1.running_mean of node 1 than a step" in message


class Bakes:
    """Replays with one tensor as it was when the recording was made."""

    def __init__(self):
        self.find = None

    def __call__(self, function):
        tensor = self.find().detach()
        baked = tensor.clone()

        def replay():
            now = tensor.clone()
            tensor.copy_(baked)
            losses = function()
            tensor.copy_(torch.where(tensor == baked, now, now + (tensor - baked)))  # What the step did to it stays.
            return losses

        return replay


def mode_after_first_step(learner, record, find):
    """How a learner's steps run after the first of them. ``find`` gives the tensor that is baked in."""
    source = MemoryTrain(num_images=32, batch_size=16)
    step = TrainingStep(learner, lambda spec: learner.learn(source.make(spec)))
    record.find = lambda: find(learner, step)
    learner.set_schedule(ScheduleStep(epoch=1, step=1, num_steps=1000))
    step(next(source.specs(seed=0, epoch=1)))
    return learner.programs.mode


def rate_of(node):
    return node._optimizer.param_groups[0]["lr"]


READ_BY_A_STEP = {
    "images": lambda learner, step: step._inputs[0],
    "labels": lambda learner, step: step._inputs[1],
    "rate of the first node": lambda learner, step: rate_of(learner._nodes[0]),
    "rate of the last node": lambda learner, step: rate_of(learner._nodes[-1]),
    "ramp": lambda learner, step: learner.model._ramp,
    "untaught groups": lambda learner, step: learner.model.untaught_MG,
    "first weight": lambda learner, step: learner.networks[0].lower.conv1.weight,
    "last weight": lambda learner, step: list(learner.networks[-1].parameters())[-2],
    **{
        field: lambda learner, step, field=field: getattr(learner.model._coefficients, field)
        for field in GraphCoefficients._fields
    },
}


@pytest.mark.parametrize(
    ("precision", "network", "num_nodes"),
    [("float32", NETWORK, 2), ("bf16", NETWORK, 3), ("bf16", ATTENTION_BRANCH, 2)],
)
@pytest.mark.parametrize("name", READ_BY_A_STEP)
def test_recording_with_one_input_baked_in_is_rejected(name, precision, network, num_nodes, caplog):
    programs.cache_clear()
    learner = learner_of(
        random_graph(np.random.default_rng(num_nodes), num_nodes),
        network=network,
        device=replace(CPU, precision=precision),
        record=(record := Bakes()),
    )
    assert mode_after_first_step(learner, record, READ_BY_A_STEP[name]) == "eager"
    (message,) = [entry.getMessage() for entry in caplog.records if entry.name.startswith("kdhpc")]
    assert "a replay came to another " in message


@pytest.mark.parametrize("name", ["rate", "ramp"])
def test_recording_of_one_with_an_input_baked_in_is_rejected(name):
    programs.cache_clear()
    setting = setting_of(runtime=runtime_of(programs=programs(None, record := Bakes())))
    learner = Learner(OneMethod(num_branches=3).model(setting, seed=0), setting.training)
    find = {"rate": lambda learner, step: rate_of(learner._nodes[0]), "ramp": READ_BY_A_STEP["ramp"]}[name]
    assert mode_after_first_step(learner, record, find) == "eager"


@pytest.mark.parametrize("part", BatchSpec._fields)
@pytest.mark.parametrize("augmentation", ["pad_crop", "resized_crop"])
def test_recording_with_a_part_of_the_spec_baked_in_is_rejected(augmentation, part):
    programs.cache_clear()
    augmentations = ("RandAugment", "RandomErasing") if part == "changes" else ()
    training = packed_training(augmentation, programs(None, record := Bakes()), augmentations=augmentations)
    record.find = lambda: training._learn._inputs[BatchSpec._fields.index(part)]
    next(training.steps())
    assert training.mode == "eager"


class Rounds:
    """Replays of weights that are rounded in another way each time."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)
        self.networks = ()

    def __call__(self, function):
        def replay():
            weights = [weight.detach() for network in self.networks for weight in network.parameters()]
            exact = [weight.clone() for weight in weights]
            for weight in weights:
                weight.mul_(1 + 1e-7 * (2 * torch.randint(0, 2, weight.shape, generator=self.generator) - 1))
            rounded = [weight.clone() for weight in weights]
            losses = function()
            for weight, before, start in zip(weights, exact, rounded, strict=True):
                weight.copy_(torch.where(weight == start, before, before + (weight - start)))
            return losses

        return replay


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    "network", [NETWORK, ATTENTION_BRANCH, DEEP_ATTENTION_BRANCH, NetworkConfig(name="resnet20", crops=(1, 3))]
)
def test_recording_that_differs_by_rounding_is_accepted(network, precision):
    programs.cache_clear()
    graph = random_graph(np.random.default_rng(0), 2)
    learner = learner_of(graph, network=network, device=replace(CPU, precision=precision), record=(record := Rounds()))
    record.networks = learner.networks
    assert mode_after_first_step(learner, record, None) == "eager cudagraph"


def test_varied_values_are_all_others_and_gone_afterwards():
    learner = learner_of(mutual(gate=Gate.LINEAR, num_nodes=3), record=Recordings())
    learner.set_schedule(ScheduleStep(epoch=1, step=1, num_steps=8))
    tensors = [*learner.model._coefficients, learner.model._ramp, *map(rate_of, learner._nodes)]
    before = [tensor.clone() for tensor in tensors]
    with learner.varied():
        for tensor, value in zip(tensors, before, strict=True):
            differs = tensor != value
            if tensor.dim() > 1:  # No edge leads from a node to itself.
                differs = differs | torch.eye(3, dtype=torch.bool)
            assert differs.all()
        assert int((learner.model.untaught_MG != 0).sum()) == 1
    for tensor, value in zip(tensors, before, strict=True):
        assert torch.equal(tensor, value)
    assert not learner.model.untaught_MG.any()


def test_a_learner_keeps_its_last_recordings_alone():
    learner = learner_of(mutual(num_nodes=2), record=(recordings := Recordings()))
    source = MemoryTrain()
    step = TrainingStep(learner, lambda spec: learner.learn(source.make(spec)))
    learner.set_schedule(ScheduleStep(epoch=1, step=1, num_steps=8))
    for frozen in ((), (0,), (), (1,), ()):
        learner.model.frozen = frozen
        step(next(source.specs(seed=0, epoch=1)))
    assert recordings.made == 3  # That of (0,) has made room.
    networks = (0, 1)
    assert list(step._recordings) == [((1,), networks), ((), networks)]


def out_of_memory(function):
    raise torch.OutOfMemoryError("CUDA out of memory")


def out_of_memory_in_a_capture(function):
    try:
        raise torch.OutOfMemoryError("CUDA out of memory")
    finally:
        raise torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture")


def out_of_memory_after_a_capture(function):
    raise torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'")


@pytest.mark.parametrize("record", [out_of_memory, out_of_memory_in_a_capture, out_of_memory_after_a_capture])
def test_memory_that_ends_while_recording_is_the_callers_matter(record):
    programs.cache_clear()
    training = training_of(mutual(num_nodes=2), record=record)
    with pytest.raises(RuntimeError) as raised:
        next(training.steps())
    assert is_out_of_memory(raised.value)
    assert training.mode == "eager cudagraph"


def loses_the_gpu(function):
    raise CaptureError("recording a CUDA graph failed, and this process cannot use its GPU after it")


def test_recording_that_loses_the_gpu_is_the_callers_matter():
    programs.cache_clear()
    training = training_of(mutual(num_nodes=2), record=loses_the_gpu)
    with pytest.raises(CaptureError):
        next(training.steps())


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
        device=DeviceConfig(precision=precision, channels_last=False),
        record=Recordings(),
        target=torch.device(device),
    )
    images = torch.zeros(4, 3, IMAGE_SIZE, IMAGE_SIZE)
    return learner, MemoryBatch(images, torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_step_never_waits_for_the_host(precision):
    with FakeTensorMode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "to", lambda module, *args, **kwargs: module)  # Fake weights cannot be moved.
        patch.setattr("kdhpc.training.device._why_not", lambda precision, device: None)
        learner, batch = fake_step("cpu", precision=precision)
        losses = learner.step(batch, ScheduleStep(epoch=1, step=1, num_steps=8))
        assert losses.shape == (3,)
        with pytest.raises(DataDependentOutputException):  # What a wait would have done.
            losses.sum().item()


def test_forward_and_losses_on_cuda_take_nothing_from_the_cpu():
    """Without a GPU, this is as far as CUDA tensors without values go: their backward pass needs a driver."""
    with FakeTensorMode(), torch.device("cuda", 0), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "to", lambda module, *args, **kwargs: module)
        learner, batch = fake_step("cuda:0", precision="float32")
        patch.setattr(torch.autograd, "backward", lambda losses, gradients: None)
        patch.setattr("kdhpc.training.node_trainer.NodeTrainer.update", lambda node, skip: None)
        losses = learner.step(batch, ScheduleStep(epoch=1, step=1, num_steps=8))
        assert losses.device == torch.device("cuda", 0)
