"""The programs of a step, as they are or compiled.

A program is compiled once for a shape and serves all nodes, graphs and trials: a network's weights and a graph's
coefficients are its inputs.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from kdhpc.config.schema import DeviceConfig
from kdhpc.losses.coefficients import GraphCoefficients, Terms
from kdhpc.losses.distillation import CropWindows
from kdhpc.losses.objective import EnsembleOutput, node_losses
from kdhpc.losses.one import one_loss
from kdhpc.losses.student import student_loss
from kdhpc.networks.build import Network
from kdhpc.networks.one import OneNetwork, OneOutput
from kdhpc.networks.output import NetworkOutput
from kdhpc.training.batches import ImageBatch, TrainSource
from kdhpc.training.compile_folder import keep_private
from kdhpc.training.device import Mode, combines_nodes, preferred_mode
from kdhpc.training.device_errors import first_line, is_of_device
from kdhpc.training.recording import Record, Recorder, record_cuda_graph
from kdhpc.training.toolchain import missing_tool

_LOG = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

Backend = str | Callable[..., Any]
"""Of torch.compile: a name, or what compiles a graph."""
_VARIANTS = 64
"""Of a program, before torch.compile gives up; its own limit is 8."""


class Compiler:
    """torch.compile, until it fails.

    Args:
        backend: Of torch.compile; none: do not compile.
        combines: Launch independent work of a program together, see `combining`; where that fails, compile without.
    """

    def __init__(self, backend: Backend | None, *, combines: bool = False) -> None:
        self.backend = backend
        self.combines = combines and backend is not None
        if backend is not None:
            # Networks in training, in evaluation, frozen, or for another batch are variants of one program.
            from torch._dynamo import config  # Slow, but will be in use in a moment.
            from torch._functorch import config as backward_config

            config.recompile_limit = max(config.recompile_limit, _VARIANTS)
            # Nothing to tell a user: what is slower in Python 3.13.0 is negligible here.
            config.issue_3_13_0_warning = False
            # Backward passes run outside of autocast here, also those that were traced within it.
            backward_config.backward_pass_autocast = "off"

    @property
    def mode(self) -> Literal["eager", "compile"]:
        """How programs run from now on."""
        return "eager" if self.backend is None else "compile"

    def give_up(self, error: Exception) -> None:
        """Combine nothing from now on, or if nothing was combined run everything as it is, and say why."""
        reason = first_line(getattr(error, "inner_exception", error))  # Of what a backend raised.
        if self.combines:
            self.combines = False
            _LOG.warning("kernels are launched one by one (device.combine=false does not try more): %s", reason)
            return
        self.backend = None
        missing = missing_tool()
        _LOG.warning(
            "torch.compile failed, going on without (device.mode=eager does not try): %s",
            reason if missing is None else f"{missing} ({reason})",
        )


def combining() -> dict[str, Any]:
    """Options of Inductor by which kernels that do not wait for each other become one launch, as far as it has them.

    Combined are kernels that are equally far from the inputs: the same layer of all networks, and the casts of all
    weights. Inductor would combine at most 8, and none that keeps memory in use for longer; what is kept here longest
    are weights in half precision, which the backward pass needs anyway.
    """
    from torch._inductor import config

    wanted = {
        "combo_kernels": True,
        "combo_kernel_max_num_nodes": 32,
        "combo_kernel_peak_memory_pct_threshold": None,
    }
    return {name: value for name, value in wanted.items() if hasattr(config, name)}


class Program(Generic[P, R]):
    """A function that runs compiled, or as it is once its compiler has failed."""

    def __init__(self, function: Callable[P, R], compiler: Compiler) -> None:
        self._function = function
        self._compiler = compiler
        self._compiled = {combines: self._compile(combines=combines) for combines in {compiler.combines, False}}

    def _compile(self, *, combines: bool) -> Callable[P, R]:
        backend = self._compiler.backend
        if backend is None:
            return self._function
        options = combining() if combines and backend == "inductor" else None
        # dynamic=False: another batch size is another program, not a slower one for all sizes.
        return torch.compile(self._function, backend=backend, options=options, dynamic=False, fullgraph=True)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function. Compilation fails before anything has run, so that nothing has moved twice.

        Except that of the backward pass, which may come with the backward pass: see ``TrainingStep``.

        Raises:
            RuntimeError: the device, out of memory or lost, is to blame, and not the compiler.
        """
        if self._compiler.mode == "eager":
            return self._function(*args, **kwargs)
        # Slow, but here it is in use already.
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        try:
            return self._compiled[self._compiler.combines](*args, **kwargs)
        except (TorchDynamoException, FailOnRecompileLimitHit) as exc:
            if is_of_device(exc):
                raise
            self._compiler.give_up(exc)
            return self._function(*args, **kwargs)


def _run_network(network: Network, images: Tensor) -> NetworkOutput:
    output: NetworkOutput = network(images)
    return output


def _run_networks(networks: tuple[Network, ...], images: Tensor) -> EnsembleOutput:
    return stacked([network(images) for network in networks])


def stacked(outputs: Sequence[NetworkOutput]) -> EnsembleOutput:
    """The answers of all nodes."""
    extra = zip(*(output.extra_hard_logits for output in outputs), strict=True)
    return EnsembleOutput(
        torch.stack([output.logits for output in outputs]),
        torch.stack([output.attention_map for output in outputs]),
        tuple(torch.stack(logits) for logits in extra),
    )


def _run_one(network: OneNetwork, images: Tensor) -> OneOutput:
    output: OneOutput = network(images)
    return output


def _run_objective(
    output: EnsembleOutput,
    labels: Tensor,
    coefficients: GraphCoefficients,
    windows: CropWindows,
    ramp: Tensor,
    terms: Terms,
) -> Tensor:
    return node_losses(output, labels, coefficients, windows, ramp, terms=terms)


def _make_batch(source: TrainSource, recipe: tuple[Tensor, ...]) -> ImageBatch:
    return source.make(recipe)


@dataclass(frozen=True, kw_only=True)
class Programs:
    """All programs, and what records the steps that call them."""

    compiler: Compiler
    """What they run under, but for the batch."""
    recorder: Recorder
    """What records whole steps."""
    batch: Program[[TrainSource, tuple[Tensor, ...]], ImageBatch]
    """A batch of its recipe, with a compiler of its own: where that fails, only this is slower."""
    network: Program[[Network, Tensor], NetworkOutput]
    """The network of a node."""
    networks: Program[[tuple[Network, ...], Tensor], EnsembleOutput]
    """The networks of all nodes, if `combines`."""
    one: Program[[OneNetwork, Tensor], OneOutput]
    """The network of ONE."""
    objective: Program[[EnsembleOutput, Tensor, GraphCoefficients, CropWindows, Tensor, Terms], Tensor]
    """`node_losses`."""
    one_loss: Program[[Tensor, Tensor, tuple[Tensor, ...], Tensor, Tensor], Tensor]
    """`kdhpc.losses.one.one_loss`."""
    student_loss: Program[[Tensor, tuple[Tensor, ...], Tensor, Tensor, float], Tensor]
    """`kdhpc.losses.student.student_loss`."""

    @property
    def mode(self) -> Mode:
        """How steps run from now on."""
        if not self.records:
            return self.compiler.mode
        return "cudagraph" if self.compiler.mode == "compile" else "eager cudagraph"

    @property
    def combines(self) -> bool:
        """Whether the networks of all nodes are one program from now on."""
        return self.compiler.combines

    @property
    def records(self) -> bool:
        """Whether steps are recorded."""
        return self.recorder.record is not None


@functools.cache
def programs(
    backend: Backend | None,
    record: Record | None = None,
    *,
    batch_backend: Backend | None = None,
    combines: bool = False,
) -> Programs:
    """The process's programs: what one trial compiled, the next one finds.

    Args:
        backend: Of torch.compile (``inductor``, if its files can be kept from others); none: as they are.
        record: What records whole steps; none: nothing does.
        batch_backend: The same for what makes batches.
        combines: See `Compiler`. Compiling takes longer then.
    """
    if "inductor" in (backend, batch_backend):
        problem = keep_private()
        if problem is not None:
            _LOG.warning("torch.compile is not used, as others could put programs of theirs in the way: %s", problem)
            backend = batch_backend = None
    compiler = Compiler(backend, combines=combines)
    return Programs(
        compiler=compiler,
        recorder=Recorder(record),
        batch=Program(_make_batch, Compiler(batch_backend, combines=combines)),
        network=Program(_run_network, compiler),
        networks=Program(_run_networks, compiler),
        one=Program(_run_one, compiler),
        objective=Program(_run_objective, compiler),
        one_loss=Program(one_loss, compiler),
        student_loss=Program(student_loss, compiler),
    )


def programs_for(config: DeviceConfig, device: torch.device) -> Programs:
    """The programs that the config means on this device, and the process's choice of cuDNN's algorithms.

    Raises:
        ConfigError: the device cannot run so.
    """
    torch.backends.cudnn.benchmark = config.cudnn_benchmark
    return programs_in(preferred_mode(config, device), device, combines=combines_nodes(config, device))


def programs_in(mode: Mode, device: torch.device, *, combines: bool = False) -> Programs:
    """The programs that run in a mode there; ``combines``: equal work of all nodes in one launch."""
    backend = None if mode == "eager" else "inductor"
    return programs(
        backend,
        record_cuda_graph if mode == "cudagraph" else None,
        # On a CPU, resizing block by block is twice as fast as all that Inductor makes of it.
        batch_backend=backend if device.type == "cuda" else None,
        combines=combines,
    )
