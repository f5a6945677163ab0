"""What a step takes: modes, peers, trials side by side, and levers that only a card can judge."""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from kdhpc.config.schema import DeviceConfig, SearchConfig
from kdhpc.errors import NetworkError
from kdhpc.training.batches import TrainSource
from kdhpc.training.cuda_graph import record_cuda_graph
from kdhpc.training.device import Precision
from kdhpc.training.runtime import resolve_runtime
from kdhpc.training.streams import OwnStream
from tools.benchmarks.noise import noise_batches
from tools.benchmarks.step import OurLoop, StepCell, batch_of, full_graph, launches, peer_loop
from tools.gpu_checks.check import CannotRunError, Check, Numbers, Scale
from tools.gpu_checks.first_step import first_step_check
from tools.gpu_checks.floor import floor_check
from tools.gpu_checks.parity import parity_check
from tools.gpu_checks.processes import processes_check
from tools.gpu_checks.setting import (
    ReadyBatches,
    compute_in,
    config_of,
    device_of,
    pixels_of,
    programs_of,
    training_of,
    wait,
    with_device,
)

WARM_STEPS = 10
_NUM_FIRST = 2
"""Networks whose cells all come before those of the others."""
_MORE_CONNECTIONS = {"CUDA_DEVICE_MAX_CONNECTIONS": "32"}


def checks(scale: Scale, scratch: Path) -> Iterator[Check]:
    """The most telling cells of the most telling networks first."""
    groups = (scale.speed_networks[:_NUM_FIRST], scale.speed_networks[_NUM_FIRST:])
    for networks in groups:
        for cells in (_modes, _peers, _side_by_side, _levers):
            for network in networks[: 1 if scale.cpu and cells is _levers else None]:
                for name, run in cells(scale, network):
                    yield Check(name=f"{network}: {name}", run=run, limit_s=300)
        for network in networks if not scale.cpu else ():
            yield Check(
                name=f"{network}: floor", run=functools.partial(floor_check, scale, network, scratch / "floors")
            )
        if networks is groups[0] and not scale.cpu:
            yield _first_step(scale, networks[0], scratch)
    for network in scale.speed_networks[: 1 if scale.cpu else _NUM_FIRST]:
        for name, run in _options(scale, network):
            yield Check(name=f"{network}: {name}", run=run, limit_s=300)
    network = scale.speed_networks[0]
    for precision in ("float32", "bf16"):
        yield Check(
            name=f"{network}: parity, {precision}", run=functools.partial(parity_check, scale, network, precision)
        )
    if scale.cpu:  # Where it compiles C++ for minutes.
        yield _first_step(scale, network, scratch)


def _first_step(scale: Scale, network: str, scratch: Path) -> Check:
    return Check(
        name=f"{network}: first step, cold and warm",
        run=functools.partial(first_step_check, scale, network, scratch),
        limit_s=420,
    )


_Cells = Iterator[tuple[str, Callable[[], Numbers]]]


def _modes(scale: Scale, network: str) -> _Cells:
    best = "cudagraph" if not scale.cpu else "compile" if scale.compiles else "eager"
    for mode in ("cudagraph", "compile", "eager"):
        if mode == best or (mode == "compile" and scale.compiles) or mode == "eager":
            yield mode, functools.partial(steps_check, scale, _config(scale, network, mode=mode))
        if mode == best:
            config = _config(scale, network, mode=mode)
            yield f"{mode}, images ready", functools.partial(steps_check, scale, config, ready=True)


def _peers(scale: Scale, network: str) -> _Cells:
    yield "published style", functools.partial(peer_check, scale, network, "published")
    compiled = (True, False) if scale.compiles else (False,)
    for is_compiled in compiled:
        for is_recorded in (True, False) if not scale.cpu else (False,):
            what = [word for word, is_so in (("compiled", is_compiled), ("recorded", is_recorded)) if is_so]
            name = f"stacked networks{', ' if what else ''}{' and '.join(what)}"
            yield (
                name,
                functools.partial(peer_check, scale, network, "grouped", compiled=is_compiled, recorded=is_recorded),
            )


def _side_by_side(scale: Scale, network: str) -> _Cells:
    for number in (1, 2, 4, 8) if not scale.cpu else (2,):
        config = _config(scale, network, mode=_best(scale))
        yield f"{number} trial{'s' * (number > 1)}", functools.partial(steps_check, scale, config, num_trials=number)


def _levers(scale: Scale, network: str) -> _Cells:
    config = _config(scale, network, mode=_best(scale))
    if not scale.cpu:
        streams = with_device(config, node_streams=True)
        yield "node streams", functools.partial(steps_check, scale, streams)
        yield "not combined", functools.partial(steps_check, scale, with_device(config, combine=False))
        yield "cudnn.benchmark", functools.partial(steps_check, scale, with_device(config, cudnn_benchmark=True))
    number = 4 if not scale.cpu else 2
    run = functools.partial(processes_check, scale, network, number=1, num_trials=number)
    yield f"{number} trials, a process of their own", run
    if not scale.cpu:
        more = functools.partial(run, environment=_MORE_CONNECTIONS)
        yield f"{number} trials, CUDA_DEVICE_MAX_CONNECTIONS=32", more


def _options(scale: Scale, network: str) -> _Cells:
    config = _config(scale, network, mode=_best(scale))
    for precision in get_args(Precision):
        only_cuda = scale.cpu and precision in ("tf32", "fp16")
        if not only_cuda and precision != resolve_runtime(config.device, device=device_of(scale)).precision:
            # Not every precision goes with every mode: the best that there is.
            device = {"precision": precision, "mode": "eager" if scale.cpu else "auto"}
            yield precision, functools.partial(steps_check, scale, with_device(config, **device))
    contiguous = with_device(config, channels_last=False)
    yield "contiguous memory", functools.partial(steps_check, scale, contiguous)
    for number in (2, 4) if not scale.cpu else (2,):
        yield f"{number} processes", functools.partial(processes_check, scale, network, number=number, num_trials=1)


def _best(scale: Scale) -> str:
    return "eager" if scale.cpu else "cudagraph"


def _config(scale: Scale, network: str, *, mode: str) -> SearchConfig:
    device = DeviceConfig(device="cpu" if scale.cpu else "cuda", mode=mode)  # type: ignore[arg-type]
    return config_of(scale, network, device=device)


def steps_check(scale: Scale, config: SearchConfig, *, num_trials: int = 1, ready: bool = False) -> Numbers:
    """Steps of trials that take turns, each on a stream of its own, as a worker's."""
    compute_in(resolve_runtime(config.device, device=device_of(scale)).precision)
    try:
        return _steps(scale, config, num_trials, ready)
    finally:
        compute_in("float32")


def _steps(scale: Scale, config: SearchConfig, num_trials: int, ready: bool) -> Numbers:
    begin = time.perf_counter()
    device = device_of(scale)
    journeys = Journeys(scale, config, num_trials, ready=ready)
    journeys.turn()
    wait(device)
    first_s = time.perf_counter() - begin
    stream = journeys.streams[0] if num_trials == 1 else None
    times = step_times(journeys.turn, scale.num_steps, device, stream)
    return {
        "mode": journeys.mode,
        "precision": resolve_runtime(config.device, device=device_of(scale)).precision,
        **_times([each / num_trials for each in times]),
        **_launched(journeys.turn, num_trials, device),
        "first_step_s": first_s,
        **_peak(),
    }


class Journeys:
    """Trainings that take turns.

    Args:
        scale: How much of everything.
        config: What is trained.
        num_trials: How many.
        ready: Batches are not made.
    """

    def __init__(self, scale: Scale, config: SearchConfig, num_trials: int, *, ready: bool = False) -> None:
        # So many steps that no end of an epoch is among them.
        train, evaluation = noise_batches(config, 4 * WARM_STEPS + 2 * scale.num_steps + 8)
        source: TrainSource = ReadyBatches(train) if ready else train
        device = device_of(scale)
        self.streams: list[OwnStream | None] = []
        self._trainings = []
        computing = None
        if scale.cpu and config.device.mode == "compile":
            computing = programs_of(scale, None)
        for seed in range(num_trials):
            self.streams.append(_stream(device))
            with on(self.streams[-1]):
                graph = full_graph(config.study.num_nodes)
                self._trainings.append(training_of(config, graph, source, evaluation, seed=seed, programs=computing))
        self._steps = [training.steps() for training in self._trainings]

    @property
    def mode(self) -> str:
        """What was left after any fallback."""
        return self._trainings[0].mode

    def turn(self) -> None:
        """A step of each."""
        for steps, stream in zip(self._steps, self.streams, strict=True):
            with on(stream):
                next(steps)


def peer_check(scale: Scale, network: str, name: str, *, compiled: bool = False, recorded: bool = False) -> Numbers:
    """Another side, in our precision, images ready: the published style of loop, or all networks as one."""
    begin = time.perf_counter()
    device = device_of(scale)
    cell = StepCell(
        network=network,
        num_nodes=scale.num_nodes,
        batch_size=scale.batch_size,
        image_size=pixels_of(scale, network),
        device=DeviceConfig(device="cpu" if scale.cpu else "cuda", mode="eager"),
    )
    precision = resolve_runtime(cell.device, device=device_of(scale)).precision
    ours, batch = OurLoop(cell), batch_of(cell)
    try:
        loop = peer_loop(name, ours, cell, precision)
    except NetworkError as exc:
        raise CannotRunError(str(exc)) from exc
    if compiled:
        loop.compile(scale.backend)  # type: ignore[attr-defined]

    def step() -> Tensor:
        losses = loop.step(batch, 0.5, ours.config.learning_rate)
        return losses if isinstance(losses, Tensor) else torch.zeros(())

    stream = _stream(device)
    with on(stream):
        turn: Callable[[], object] = step
        if recorded:
            for _ in range(3):
                step()
            turn = record_cuda_graph(step)
        turn()
        wait(device)
        first_s = time.perf_counter() - begin
        times = step_times(turn, scale.num_steps, device, stream)
        launched = launches(turn, device)
    what = [word for word, is_so in (("compiled", compiled), ("recorded", recorded)) if is_so]
    return {
        "mode": " and ".join(what) or "eager",
        "precision": precision,
        **_times(times),
        **({} if launched is None else {"kernels": launched[0], "waits": launched[1]}),
        "first_step_s": first_s,
        **_peak(),
    }


def step_times(
    turn: Callable[[], object], num_steps: int, device: torch.device, stream: OwnStream | None = None
) -> list[float]:
    """Seconds of a turn, after some that do not count, measured twice: what they differ by is noise.

    Args:
        turn: Launches a step.
        num_steps: Turns that are timed together.
        device: Where.
        stream: The one stream that it works on: CUDA events on it take the time. None: the clock, until all is done.
    """
    for _ in range(WARM_STEPS if device.type == "cuda" else 1):
        turn()
    return [_time(turn, num_steps, device, stream) for _ in range(2)]


def _time(turn: Callable[[], object], num_steps: int, device: torch.device, stream: OwnStream | None) -> float:
    wait(device)
    if stream is None:
        begin = time.perf_counter()
        for _ in range(num_steps):
            turn()
        wait(device)
        return (time.perf_counter() - begin) / num_steps
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record(stream.stream)
    for _ in range(num_steps):
        turn()
    last.record(stream.stream)
    wait(device)
    return float(first.elapsed_time(last)) / 1e3 / num_steps


def _times(seconds: list[float]) -> Numbers:
    return {"step_ms": 1e3 * seconds[0], "again_ms": 1e3 * seconds[1]}


def _launched(turn: Callable[[], None], num_trials: int, device: torch.device) -> Numbers:
    launched = launches(turn, device)
    return {} if launched is None else {"kernels": launched[0] / num_trials, "waits": launched[1]}


def _peak() -> Numbers:
    return {"memory_gb": torch.cuda.max_memory_allocated() / 2**30} if torch.cuda.is_available() else {}


def _stream(device: torch.device) -> OwnStream | None:
    """One of its own, as a worker's trials have, that begins after all that was launched."""
    if device.type != "cuda":
        return None
    own = OwnStream(device)
    own.stream.wait_stream(torch.cuda.current_stream())
    return own


def on(stream: OwnStream | None) -> AbstractContextManager[object]:
    """Work on it; none: where one is."""
    return nullcontext() if stream is None else torch.cuda.stream(stream.stream)
