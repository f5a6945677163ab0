"""A compiler that fails late: in the backward pass, with an error of any kind."""

import logging

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from kdhpc.losses.one import one_loss
from kdhpc.training.compile import programs
from kdhpc.training.device_errors import is_out_of_memory
from kdhpc.training.schedule import ScheduleStep
from kdhpc.training.step import TrainingStep
from tests.methods.test_graph import learner_of
from tests.training.memory_source import MemoryTrain, mutual
from tests.training.test_recording import Recordings

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def as_written(module, inputs):
    return make_boxed_func(module.forward)


def without_backward(module, inputs):
    raise ZeroDivisionError("no backward pass\nand more")


@pytest.fixture
def fails_late():
    torch._dynamo.reset()
    programs.cache_clear()
    yield aot_autograd(fw_compiler=as_written, bw_compiler=without_backward)
    torch._dynamo.reset()
    programs.cache_clear()


def losses_of(learner):
    step = TrainingStep(learner, lambda spec: learner.learn(MemoryTrain().make(spec)))
    losses = []
    for number, spec in enumerate(MemoryTrain().specs(seed=0, epoch=1)):
        learner.set_schedule(ScheduleStep(epoch=1, step=number + 1, num_steps=8))
        losses.append(step(spec).clone())
    return torch.stack(losses)


@pytest.mark.parametrize(("record", "mode"), [(None, "eager"), (Recordings(), "eager cudagraph")])
def test_step_backward_pass_that_cannot_be_compiled_runs_as_it_is(fails_late, record, mode, caplog):
    learner = learner_of(mutual(num_nodes=2), backend=fails_late, record=record)
    with caplog.at_level(logging.WARNING):
        losses = losses_of(learner)
    torch.testing.assert_close(losses, losses_of(learner_of(mutual(num_nodes=2))), rtol=1e-5, atol=1e-6)
    assert learner.programs.mode == mode
    (message,) = [entry.getMessage() for entry in caplog.records if entry.name.startswith("kdhpc")]
    assert message.endswith("ZeroDivisionError: no backward pass")


@pytest.mark.parametrize("fails_first", ["forward", "backward"])
def test_step_that_cannot_be_combined_and_then_not_be_compiled_runs_as_it_is(fails_late, fails_first, caplog):
    broken = []

    def forward(module, inputs):
        if fails_first == "forward" and not broken:
            broken.append(module)
            raise ZeroDivisionError("no forward pass")
        return as_written(module, inputs)

    backend = aot_autograd(fw_compiler=forward, bw_compiler=without_backward)
    learner = learner_of(mutual(num_nodes=2), backend=backend, combines=True)
    with caplog.at_level(logging.WARNING):
        losses = losses_of(learner)
    torch.testing.assert_close(losses, losses_of(learner_of(mutual(num_nodes=2))), rtol=1e-5, atol=1e-6)
    assert learner.programs.mode == "eager"
    messages = [entry.getMessage() for entry in caplog.records if entry.name.startswith("kdhpc")]
    assert [message.partition(" (")[2].partition(" does")[0] for message in messages] == [
        "device.combine=false",
        "device.mode=eager",
    ]


def failing(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
)
def test_step_memory_that_ends_is_not_taken_for_the_compilers_failure(fails_late, error):
    learner = learner_of(mutual(num_nodes=2), backend="aot_eager")
    with pytest.raises(RuntimeError) as raised:
        TrainingStep(learner, failing(error))(next(MemoryTrain().specs(seed=0, epoch=1)))
    assert raised.value is error
    assert learner.programs.mode == "compile"


def test_step_device_that_is_lost_is_not_taken_for_the_compilers_failure(fails_late, monkeypatch):
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", failing(lost))
    learner = learner_of(mutual(num_nodes=2), backend="aot_eager")
    with pytest.raises(torch.AcceleratorError):
        TrainingStep(learner, failing(lost))(next(MemoryTrain().specs(seed=0, epoch=1)))
    assert learner.programs.mode == "compile"


def test_program_memory_that_ends_while_it_is_compiled_is_not_taken_for_the_compilers_failure(fails_late):
    def backend(module, inputs):
        raise RuntimeError("CUDA driver error: out of memory")

    learner = learner_of(mutual(num_nodes=2), backend=backend)
    with pytest.raises(RuntimeError) as raised:
        losses_of(learner)
    assert is_out_of_memory(raised.value)
    assert learner.programs.mode == "compile"


def test_step_is_compiled_again_for_many_more_variants_than_torch_allows(fails_late):
    compiled = programs("aot_eager").of(one_loss)
    for num_samples in range(2, 22):
        logits = torch.zeros(2, num_samples, 3)
        compiled(logits, logits[0], (), torch.zeros(num_samples, dtype=torch.int64), torch.zeros(()))
    assert programs("aot_eager").mode == "compile"
