"""What only a GPU can show: recorded steps, their streams, trials beside each other."""

import math
from dataclasses import replace
from itertools import islice

import pytest
import torch

from kdhpc.data.store import StreamedImages
from kdhpc.methods.graph import GraphMethod
from kdhpc.methods.student import TeacherWeights
from kdhpc.training.compile import programs
from kdhpc.training.loop import TrainingLoop
from kdhpc.training.streams import OwnStream
from tests.methods.test_student import Taught, builder_of
from tests.training.memory_source import CPU, NETWORK, runtime_of, setting_of, training_config
from tests.training.test_loop import never
from tests.training.test_packed_resume import GRAPH, training_of

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("default"),  # torch's own, of a driver or a card, are not ours to fail for.
]
NUM_STEPS = 20
AUGMENTATIONS = ["pad_crop", "resized_crop"]


@pytest.fixture(autouse=True)
def fresh_programs():
    torch._dynamo.reset()
    programs.cache_clear()
    yield
    programs.cache_clear()


def on_gpu(augmentation="pad_crop", *, seed=3, **options):
    device = replace(CPU, device="cuda", channels_last=True, **options)
    return training_of(augmentation, device=device, seed=seed, epochs=8)


def advance(training, stream=None):
    """The next so many steps, on a stream."""
    journey = training.steps()
    for _ in range(NUM_STEPS):
        with torch.cuda.stream(stream):
            next(journey)
        yield


def trained(training, stream=None):
    for _ in advance(training, stream):
        pass
    torch.cuda.synchronize()
    return training.state()


def assert_same(found, expected, *, tolerance=1e-3):
    """Weights, statistics and momentum; kernels that add with atomics may round differently."""
    torch.testing.assert_close(found.loss_sums, expected.loss_sums, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(found.nodes, expected.nodes, strict=True):
        torch.testing.assert_close(ours.tensors, theirs.tensors, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(ours.momentum, theirs.momentum, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("node_streams", [False, True])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_replays_are_the_compiled_steps(augmentation, node_streams):
    options = {"precision": "float32"}
    recorded = on_gpu(augmentation, mode="cudagraph", node_streams=node_streams, **options)
    found = trained(recorded)
    assert recorded.mode == "cudagraph", "it fell back"
    assert_same(found, trained(on_gpu(augmentation, mode="compile", **options)))


def student_on_gpu(mode):
    teacher = on_gpu(mode="eager", precision="float32")
    weights = tuple(network.state_dict() for network in teacher.networks)
    setting = setting_of(
        training=training_config(epochs=8),
        runtime=runtime_of(replace(CPU, device="cuda", channels_last=True, precision="float32", mode=mode)),
        train=teacher._train,
        evaluation=teacher._evaluation,
    )
    taught = TeacherWeights(build=builder_of(NETWORK), weights=weights, origin="the teacher")
    return TrainingLoop(Taught(taught, 2.0), setting, seed=3)


def test_replays_of_a_student_are_the_compiled_steps():
    recorded = student_on_gpu("cudagraph")
    found = trained(recorded)
    assert recorded.mode == "cudagraph", "it fell back"
    assert_same(found, trained(student_on_gpu("compile")))


def test_replays_after_a_restart_are_those_of_a_new_training():
    training = on_gpu(mode="cudagraph", precision="float32")
    trained(training)
    training.restart(GraphMethod(graph=GRAPH), 11)
    assert_same(trained(training), trained(on_gpu(mode="cudagraph", precision="float32", seed=11)))
    assert training.mode == "cudagraph", "it fell back"


def test_two_trials_beside_each_other_have_the_numbers_of_trials_alone():
    alone = [trained(on_gpu(mode="cudagraph", precision="float32", seed=seed)) for seed in (1, 2)]
    own = [OwnStream(torch.device("cuda")) for _ in range(2)]
    streams = [each.stream for each in own]
    trainings = []
    for seed, stream in zip((1, 2), streams, strict=True):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            trainings.append(on_gpu(mode="cudagraph", precision="float32", seed=seed))
    for _ in zip(
        *(advance(training, stream) for training, stream in zip(trainings, streams, strict=True)), strict=True
    ):
        pass
    torch.cuda.synchronize()
    for training, expected in zip(trainings, alone, strict=True):
        assert_same(training.state(), expected)


def test_streamed_images_train_as_resident_ones(monkeypatch):
    resident = trained(on_gpu(mode="cudagraph", precision="float32"))
    monkeypatch.setattr("kdhpc.data.batches.store_images", StreamedImages)
    streamed = on_gpu(mode="cudagraph", precision="float32")
    assert_same(trained(streamed), resident)
    assert streamed.mode == "cudagraph", "it fell back"


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_steps_are_recorded_in_every_precision(precision):
    training = on_gpu(mode="cudagraph", precision=precision)
    assert all(torch.isfinite(torch.tensor(report.train_losses)).all() for report in islice(training.epochs(never), 2))
    assert training.mode == "cudagraph", "it fell back"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weight_that_is_not_finite_is_found_on_the_device(bad):
    training = on_gpu()
    assert training._learner.are_finite().tolist() == [True] * len(training.networks)
    with torch.no_grad():
        list(training.networks[-1].parameters())[3].view(-1)[-1] = bad
    assert training._learner.are_finite().tolist() == [True] * (len(training.networks) - 1) + [False]
    report = next(report for report in training.steps() if report is not None)
    assert report.diverged is not None
    assert report.ensemble_accuracy is None
