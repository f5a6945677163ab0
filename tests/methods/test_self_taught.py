"""SLA and FRSKD: single networks that teach themselves, with parts that only their training has."""

import pytest
import torch

from kdhpc.config.schema import DeviceConfig
from kdhpc.graph.presets import independent
from kdhpc.losses.frskd import frskd_loss
from kdhpc.losses.sla import sla_loss
from kdhpc.methods.frskd import FrskdMethod
from kdhpc.methods.graph import GraphModel
from kdhpc.methods.sla import SlaMethod
from kdhpc.training.compile import programs
from kdhpc.training.loop import TrainingLoop
from tests.training.memory_source import (
    CPU,
    IMAGE_SIZE,
    NETWORK,
    MemoryTrain,
    runtime_of,
    setting_of,
    training_config,
)
from tests.training.test_loop import StopAfter, assert_same_state, never, without_time
from tests.training.test_recording import Recordings, assert_close_state

SLA = SlaMethod(network=NETWORK, image_size=IMAGE_SIZE, temperature=1.0, large_loss=False)
LARGE = SlaMethod(network=NETWORK, image_size=IMAGE_SIZE, temperature=2.0, large_loss=True)
FRSKD = FrskdMethod(network=NETWORK, image_size=IMAGE_SIZE, alpha=2.0, beta=100.0)
both = pytest.mark.parametrize("method", [SLA, FRSKD], ids=["sla", "frskd"])


def training_of(method, *, device=CPU, under=None, **changes):
    runtime = runtime_of(device, programs=under)
    return TrainingLoop(method, setting_of(training=training_config(**changes), runtime=runtime), seed=1)


@both
def test_training_keeps_and_scores_the_plain_network_alone(method):
    training = training_of(method, epochs=6)
    (network,), (kept,) = training.networks, training.kept_networks
    assert kept is network.student
    reports = list(training.epochs(never))
    assert reports[-1].node_accuracies == (reports[-1].ensemble_accuracy,)
    assert reports[-1].train_losses[0] < reports[0].train_losses[0]
    images = MemoryTrain().images
    kept.eval()
    prediction = training._learner.model.predict(images)
    assert torch.equal(prediction.ensemble_logits_NC, kept(images).logits)


@both
def test_model_begins_with_the_weights_of_an_independent_network_of_the_same_seed(method):
    setting = setting_of()
    (ours,), (plain,) = method.model(setting, 1).kept_networks, GraphModel(independent(1), setting, 1).networks
    assert all(torch.equal(ours.state_dict()[name], tensor) for name, tensor in plain.state_dict().items())


@pytest.mark.parametrize("method", [SLA, LARGE], ids=["sla", "large"])
def test_sla_model_loss_is_that_of_its_outputs(method):
    model = method.model(setting_of(), 1)
    batch = next(MemoryTrain().epoch(seed=0, epoch=1))
    output = model.networks[0](batch.images)
    expected = sla_loss(*output, batch.labels, method.temperature, 4.0 if method.large_loss else 1.0)
    torch.testing.assert_close(model.losses(batch), expected.unsqueeze(0))


def test_frskd_model_distillation_moves_no_weight_of_the_self_teacher():
    model = FRSKD.model(setting_of(), 1)
    (network,) = model.networks
    batch = next(MemoryTrain().epoch(seed=0, epoch=1))
    gradients = []
    for alpha, beta in ((0.0, 0.0), (2.0, 100.0)):
        network.zero_grad()
        frskd_loss(*network(batch.images), batch.labels, alpha, beta).backward()
        gradients.append({name: one.grad.clone() for name, one in network.named_parameters()})
    without, with_both = gradients
    for name in without:
        assert torch.equal(without[name], with_both[name]) == name.startswith("teacher."), name


@both
@pytest.mark.parametrize(("stop", "channels_last"), [(1, False), (6, True)])
def test_training_stopped_and_resumed_ends_in_the_same_bits(method, stop, channels_last):
    device = DeviceConfig(device="cpu", channels_last=channels_last)
    whole = training_of(method, device=device)
    expected = list(whole.epochs(never))
    first = training_of(method, device=device)
    reports = list(first.epochs(StopAfter(stop)))
    second = training_of(method, device=device)
    second.restore(first.state())
    reports += second.epochs(never)
    assert without_time(reports) == without_time(expected)
    assert_same_state(second.state(), whole.state())


@both
@pytest.mark.parametrize("options", [{"record": Recordings()}, {"backend": "aot_eager"}], ids=["recorded", "compiled"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_training_compiled_or_recorded_trains_as_plain_steps_do(method, options):
    torch._dynamo.reset()
    device = DeviceConfig(device="cpu", channels_last=True)
    under = programs(options.get("backend"), options.get("record"))
    fast, plain = training_of(method, device=device, under=under), training_of(method, device=device)
    for ours, theirs in zip(fast.epochs(never), plain.epochs(never), strict=True):
        assert ours.train_losses == pytest.approx(theirs.train_losses, rel=1e-3)
    if "record" in options:
        assert_close_state(fast.state(), plain.state())
    assert fast.mode == ("eager cudagraph" if "record" in options else "compile")
    torch._dynamo.reset()


@both
def test_training_bf16_learns(method):
    device = DeviceConfig(device="cpu", precision="bf16", channels_last=True)
    reports = list(training_of(method, device=device).epochs(never))
    assert reports[-1].train_losses[0] < reports[0].train_losses[0]
