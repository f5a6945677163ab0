"""What must hold where only a card can tell: no waiting, memory that ends, half precision, many graphs."""

import functools
import gc
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from kdhpc.data.batches import Batch
from kdhpc.methods.graph import GraphMethod, GraphModel
from kdhpc.training.compile import Programs, programs
from kdhpc.training.device_errors import is_out_of_memory
from kdhpc.training.learner import Learner
from kdhpc.training.loop import TrainingLoop
from kdhpc.training.schedule import ScheduleStep
from kdhpc.training.step import TrainingStep
from tools.benchmarks.noise import noise_batches
from tools.benchmarks.step import NoBatches, StepCell, batch_of
from tools.gpu_checks.check import NOTE, CannotRunError, Check, DiffersError, Numbers, Scale
from tools.gpu_checks.setting import (
    advance,
    config_of,
    deterministic_cudnn,
    device_of,
    programs_of,
    random_graph,
    recorder_of,
    setting_of,
    short_training,
    training_of,
    wait,
    with_device,
)

_STEPS = 8
_HUGE_SCALE = 1e30
"""Of a loss in fp16: every gradient overflows."""


def checks(scale: Scale) -> Iterator[Check]:
    """In order of importance."""
    network = scale.step_networks[0]
    yield Check(name=f"no waiting within steps, {network}", run=functools.partial(waiting_check, scale, network))
    yield Check(
        name=f"{scale.num_graphs} random graphs, {network}", run=functools.partial(graphs_check, scale, network)
    )
    yield Check(name=f"fp16, {network}", run=functools.partial(fp16_check, scale, network))
    # Last, as it may leave a process behind that can do nothing more.
    yield Check(name=f"out of memory in a capture, {network}", run=functools.partial(memory_check, scale, network))


def waiting_check(scale: Scale, network: str) -> Numbers:
    """Steps within an epoch, plain and recorded, while torch raises an error wherever the host waits for the device."""
    if scale.cpu:
        raise CannotRunError("a CPU does not wait for itself: torch.cuda.set_sync_debug_mode needs CUDA")
    found: Numbers = {}
    for kind, record in (("plain", None), ("recorded", recorder_of(scale))):
        config = config_of(scale, network, training=short_training(scale))
        train, evaluation = noise_batches(config, 2 * _STEPS)
        graph = random_graph(scale.num_nodes, 0)
        training = training_of(config, graph, train, evaluation, programs=programs_of(scale, record))
        steps = training.steps()
        for _ in range(_STEPS):
            next(steps)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(_STEPS // 2):
                next(steps)
        except RuntimeError as exc:
            raise DiffersError(f"a {kind} step waits for the device: {exc}") from exc
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found[f"{kind}, mode"] = training.mode
    return found


def graphs_check(scale: Scale, network: str) -> Numbers:
    """A step of each of many graphs with one training, as a worker does; nothing is compiled after the first."""
    if not scale.compiles:
        raise CannotRunError("nothing is compiled (--eager)")
    from torch._dynamo.utils import counters

    config = config_of(scale, network, training=short_training(scale))
    train, evaluation = noise_batches(config, 2)
    computing = programs_of(scale, recorder_of(scale))
    training = training_of(config, random_graph(scale.num_nodes, 0), train, evaluation, programs=computing)
    advance(training, 3)  # Past an evaluation: its programs are others.
    before = counters["stats"]["unique_graphs"]
    recorded_before = _memory()
    for number in range(1, scale.num_graphs):
        training.restart(GraphMethod(graph=random_graph(scale.num_nodes, number)), number)
        advance(training, 1)
    wait(device_of(scale))
    num_new = counters["stats"]["unique_graphs"] - before
    if num_new or training.mode != "cudagraph":
        raise DiffersError(f"{num_new} programs were compiled again for other graphs, mode {training.mode}")
    return {"graphs": scale.num_graphs, "compiled again": num_new, "memory grew, GB": _memory() - recorded_before}


def _memory() -> float:
    return torch.cuda.memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def fp16_check(scale: Scale, network: str) -> Numbers:
    """Losses near those of float32; an overflow leaves out the update of its node alone, and halves its scale."""
    if scale.cpu:
        raise CannotRunError("fp16 needs CUDA")
    losses = {}
    for precision in ("float32", "fp16"):
        config = with_device(config_of(scale, network, training=short_training(scale)), precision=precision)
        train, evaluation = noise_batches(config, _STEPS)
        training = training_of(config, random_graph(scale.num_nodes, 0), train, evaluation, programs=programs(None))
        losses[precision] = torch.tensor(advance(training, _STEPS + 1)[: scale.num_nodes])
    off = ((losses["fp16"] - losses["float32"]).abs() / losses["float32"].abs().clamp_min(1)).max().item()
    if not off < 0.05:
        raise DiffersError(f"losses in fp16 {losses['fp16'].tolist()}, in float32 {losses['float32'].tolist()}")
    _check_overflow(training)
    return {"losses off by": off}


def _check_overflow(training: TrainingLoop) -> None:
    state = training.state()
    state.nodes[0].loss_scale["scale"] = _HUGE_SCALE
    training.restore(state)
    before = training.state().nodes
    advance(training, 1)
    after = training.state().nodes
    halved = after[0].loss_scale["scale"]
    if halved != before[0].loss_scale["scale"] / 2:
        raise DiffersError(f"after an overflow the loss scale is {halved:g} instead of {_HUGE_SCALE / 2:g}")
    moved = [
        any(not torch.equal(one.tensors[name], other.tensors[name]) for name in one.momentum)
        for one, other in zip(before, after, strict=True)
    ]
    if moved[0] or not any(moved[1:]):
        raise DiffersError(f"an overflow of node 1 left weights as they were in {moved.count(False)} nodes, not in one")


class _Fails:
    """A recorder, or a step, that finds no memory the first time."""

    def __init__(self, scale: Scale) -> None:
        self._scale = scale
        self.armed = True
        self._too_much = 0 if scale.cpu else 2 * torch.cuda.get_device_properties(0).total_memory

    def record(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """As `record_cuda_graph`; on a CPU it is this that fails."""
        if self._scale.cpu and self.armed:
            raise torch.OutOfMemoryError("out of memory (made up)")
        return recorder_of(self._scale)(function)

    def within_step(self) -> None:
        """On a GPU: more memory than there is, while the step is recorded."""
        if self.armed and not self._scale.cpu and torch.cuda.is_current_stream_capturing():
            torch.empty(self._too_much, dtype=torch.uint8, device="cuda")


def memory_check(scale: Scale, network: str) -> Numbers:
    """Memory that ends in a capture is said as such; the process then records another step, which is right."""
    fails = _Fails(scale)
    computing = programs_of(scale, fails.record)
    with deterministic_cudnn():
        told = _fails_to_record(scale, network, fails, computing)
        fails.armed = False
        gc.collect()
        try:
            _, steps = _steps(scale, network, fails, computing)
            found = torch.stack([steps() for _ in range(4)])
        except Exception as exc:
            if told == "CaptureError":
                return {
                    "told as": told,
                    NOTE: "after it, nothing can be recorded here: a worker ends, its trial goes on",
                }
            raise DiffersError(f"after it, the process cannot record: {type(exc).__name__}: {exc}") from exc
        _, steps = _steps(scale, network, fails, programs_of(scale, None))
        expected = torch.stack([steps() for _ in range(4)])
    off = (found - expected).abs().max().item()
    if not computing.records or not off <= 1e-3:
        raise DiffersError(f"after it, steps have losses that are off by {off:.2g}, mode {computing.mode}")
    return {"told as": told, "mode after it": computing.mode, "losses off by": off}


def _fails_to_record(scale: Scale, network: str, fails: _Fails, computing: Programs) -> str:
    """The name of the error."""
    _, steps = _steps(scale, network, fails, computing)
    try:
        steps()
    except Exception as exc:
        if type(exc).__name__ == "CaptureError" or is_out_of_memory(exc):
            return type(exc).__name__
        raise DiffersError(f"it is said as {type(exc).__name__}: {exc}") from exc
    raise DiffersError("it was not noticed")


def _steps(scale: Scale, network: str, fails: _Fails, computing: Programs) -> tuple[Learner, Callable[[], Tensor]]:
    """A learner, and its next step."""
    config = config_of(scale, network, training=short_training(scale))
    device = device_of(scale)
    setting = setting_of(config, NoBatches(config.dataset.image_size), (), programs=computing)
    learner = Learner(GraphModel(random_graph(scale.num_nodes, 0), setting, seed=0), config.training)
    cell = StepCell(
        network=network,
        num_nodes=scale.num_nodes,
        batch_size=scale.batch_size,
        image_size=config.dataset.image_size,
        device=config.device,
    )
    batch = batch_of(cell)

    def learn(inputs: tuple[Tensor, Tensor]) -> Tensor:
        losses = learner.learn(Batch(images=inputs[0], labels=inputs[1]))
        fails.within_step()
        return losses

    step = TrainingStep(learner, learn)
    number = 0

    def next_step() -> Tensor:
        nonlocal number
        number += 1
        learner.set_schedule(ScheduleStep(epoch=1, step=number, num_steps=8))
        losses = step((batch.images, batch.labels)).clone()
        wait(device)
        return losses

    return learner, next_step
