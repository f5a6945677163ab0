from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kdhpc.config.schema import DeviceConfig, NetworkConfig
from kdhpc.errors import CheckpointError, NetworkError
from kdhpc.losses.student import student_loss
from kdhpc.methods.student import StudentModel, TeacherWeights
from kdhpc.networks.build import build_network
from kdhpc.training.compile import programs
from kdhpc.training.learner import Learner
from kdhpc.training.loop import TrainingLoop
from kdhpc.training.schedule import ScheduleStep
from tests.training.memory_source import (
    CPU,
    IMAGE_SIZE,
    NETWORK,
    NUM_CLASSES,
    MemoryBatch,
    MemoryTrain,
    runtime_of,
    setting_of,
    training_config,
)
from tests.training.test_loop import StopAfter, assert_same_state, never, training_of, without_time
from tests.training.test_recording import Recordings, assert_close_state

ABN = NetworkConfig(name="abn_resnet8", crops=(3,))


def teacher_of(num_nodes=2, network=NETWORK):
    """Networks whose batch-norm statistics are not those that they were built with."""
    torch.manual_seed(0)
    nodes = []
    for _ in range(num_nodes):
        node = build_network(network, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE)
        node(MemoryTrain().images)
        nodes.append({name: tensor.detach().clone() for name, tensor in node.state_dict().items()})
    return TeacherWeights(build=builder_of(network), weights=tuple(nodes), origin="the teacher")


def builder_of(network):
    return lambda index: build_network(network, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE, node=index)


@dataclass
class Taught:
    """A student of weights in memory."""

    teacher: TeacherWeights
    temperature: float

    def model(self, setting, seed):
        return StudentModel(self.teacher, self.temperature, setting, seed)


def student_training(network=NETWORK, *, teacher=None, temperature=2.0, device=CPU, under=None, **changes):
    runtime = runtime_of(device, programs=under)
    setting = setting_of(network=network, training=training_config(**changes), runtime=runtime)
    return TrainingLoop(Taught(teacher or teacher_of(), temperature), setting, seed=1)


def learner_of(network=NETWORK, *, teacher, device=CPU, target="cpu", under=None):
    setting = setting_of(network=network, runtime=runtime_of(device, target=target, programs=under))
    return Learner(StudentModel(teacher, 2.0, setting, seed=1), setting.training)


def start(learner):
    learner.set_schedule(ScheduleStep(epoch=1, step=1, num_steps=8))


@pytest.mark.parametrize("num_nodes", [1, 3])
@pytest.mark.parametrize("network", [NETWORK, ABN])
def test_learner_loss_is_that_of_the_teachers_mean_logits_in_evaluation_mode(network, num_nodes):
    teacher = teacher_of(num_nodes, ABN)
    learner = learner_of(network, teacher=teacher)
    batch = next(MemoryTrain().epoch(seed=0, epoch=1))
    logits = []
    for weights in teacher.weights:
        node = build_network(ABN, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE)
        node.load_state_dict(weights)
        logits.append(node.eval()(batch.images).logits.detach())
    fresh = build_network(network, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE)
    fresh.load_state_dict(learner.networks[0].state_dict())
    output = fresh(batch.images)
    assert len(output.extra_hard_logits) == (network is ABN)
    expected = student_loss(output.logits, output.extra_hard_logits, torch.stack(logits).mean(dim=0), batch.labels, 2.0)
    start(learner)
    torch.testing.assert_close(learner.learn(batch), expected.detach().unsqueeze(0))


def test_learner_teacher_never_moves_and_gets_no_gradient():
    teacher = teacher_of()
    training = student_training(teacher=teacher)
    before = [{name: tensor.clone() for name, tensor in node.items()} for node in teacher.weights]
    learner = training._learner
    student = {name: tensor.clone() for name, tensor in learner.networks[0].state_dict().items()}
    list(training.epochs(never))
    for network, weights in zip(learner.model.teachers, before, strict=True):
        assert not network.training
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
        found = network.state_dict()
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in weights)  # Batch-norm statistics, too.
    moved = learner.networks[0].state_dict()
    assert all(not torch.equal(moved[name], student[name]) for name in student if "running_" in name)


def test_training_reports_one_network_that_learns():
    reports = list(student_training(epochs=6).epochs(never))
    assert len(reports[-1].train_losses) == 1
    assert reports[-1].node_accuracies == (reports[-1].ensemble_accuracy,)
    assert reports[-1].train_losses[0] < reports[0].train_losses[0]


def test_training_other_teacher_or_temperature_is_another_training():
    losses = [
        next(student_training(**changes).epochs(never)).train_losses
        for changes in ({}, {"temperature": 1.0}, {"teacher": teacher_of(1)})
    ]
    assert len(set(losses)) == 3


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_training_stopped_and_resumed_ends_in_the_same_bits(stop):
    whole = student_training(ABN)
    expected = list(whole.epochs(never))
    first = student_training(ABN)
    reports = list(first.epochs(StopAfter(stop)))
    second = student_training(ABN)
    second.restore(first.state())
    reports += second.epochs(never)
    assert without_time(reports) == without_time(expected)
    assert_same_state(second.state(), whole.state())


def test_training_state_of_an_ensemble_is_refused():
    with pytest.raises(CheckpointError, match="holds 2 networks"):
        student_training().restore(training_of().state())


def test_learner_weights_of_another_network_are_refused():
    nodes = teacher_of(network=ABN).weights
    wrong = TeacherWeights(build=builder_of(NETWORK), weights=nodes, origin="the teacher")
    with pytest.raises(NetworkError, match=r"the teacher has .* for tensor"):
        learner_of(teacher=wrong)


def test_training_recorded_steps_train_as_steps_that_are_not():
    recorded = student_training(under=programs(None, recordings := Recordings()))
    plain = student_training()
    for ours, theirs in zip(recorded.epochs(never), plain.epochs(never), strict=True):
        assert ours.train_losses == pytest.approx(theirs.train_losses, rel=1e-5)
    assert_close_state(recorded.state(), plain.state())
    assert (recorded.mode, recordings.made) == ("eager cudagraph", 1)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_training_compiled_steps_train_as_steps_that_are_not():
    torch._dynamo.reset()
    compiled, plain = student_training(ABN, under=programs("aot_eager")), student_training(ABN)
    for ours, theirs in zip(compiled.epochs(never), plain.epochs(never), strict=True):
        assert ours.train_losses == pytest.approx(theirs.train_losses, rel=1e-4)
    assert compiled.mode == "compile"
    torch._dynamo.reset()


def test_training_bf16_learns():
    reports = list(
        student_training(device=DeviceConfig(device="cpu", precision="bf16", channels_last=True)).epochs(never)
    )
    assert reports[-1].train_losses[0] < reports[0].train_losses[0]


def fake_step(device, *, precision):
    """A step on tensors without values: whatever would wait for one raises."""
    weights = build_network(NETWORK, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE).state_dict()
    learner = learner_of(
        ABN,
        teacher=TeacherWeights(build=builder_of(NETWORK), weights=(weights, weights), origin="the teacher"),
        device=DeviceConfig(device="cpu", precision=precision, channels_last=False),
        target=device,
        under=programs(None, Recordings()),
    )
    start(learner)
    images = torch.zeros(4, 3, IMAGE_SIZE, IMAGE_SIZE)
    return learner.learn(MemoryBatch(images, torch.zeros(4, dtype=torch.int64)))


def test_learner_never_waits_for_the_host():
    with FakeTensorMode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "to", lambda module, *args, **kwargs: module)  # Fake weights cannot be moved.
        assert fake_step("cpu", precision="bf16").shape == (1,)


def test_learner_forward_and_loss_on_cuda_take_nothing_from_the_cpu():
    """Without a GPU, this is as far as CUDA tensors without values go: their backward pass needs a driver."""
    with FakeTensorMode(), torch.device("cuda", 0), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "to", lambda module, *args, **kwargs: module)
        patch.setattr(torch.autograd, "backward", lambda losses, gradients: None)
        patch.setattr("kdhpc.training.node_trainer.NodeTrainer.update", lambda node, skip: None)
        assert fake_step("cuda:0", precision="float32").device == torch.device("cuda", 0)
