"""The programs of a step, as they are or compiled.

A program is compiled once for a shape and serves all nodes, graphs and trials: a network's weights and a graph's
coefficients are its inputs.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from kdhpc.config.schema import DeviceConfig
from kdhpc.losses.coefficients import GraphCoefficients, Terms
from kdhpc.losses.distillation import CropWindows
from kdhpc.losses.objective import EnsembleOutput, node_losses
from kdhpc.losses.one import one_loss
from kdhpc.networks.build import Network
from kdhpc.networks.one import OneNetwork, OneOutput
from kdhpc.networks.output import NetworkOutput
from kdhpc.training.device import Mode, preferred_mode
from kdhpc.training.recording import Record, Recorder, record_cuda_graph

_LOG = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class Compiler:
    """torch.compile, until it fails.

    Args:
        backend: Of torch.compile; none: do not compile.
    """

    def __init__(self, backend: str | None) -> None:
        self.backend = backend

    @property
    def mode(self) -> Literal["eager", "compile"]:
        """How programs run from now on."""
        return "eager" if self.backend is None else "compile"

    def give_up(self, reason: str) -> None:
        """Run everything as it is from now on, and say why."""
        self.backend = None
        _LOG.warning("torch.compile failed, going on without (device.mode=eager does not try): %s", reason)


class Program(Generic[P, R]):
    """A function that runs compiled, or as it is once its compiler has failed."""

    def __init__(self, function: Callable[P, R], compiler: Compiler) -> None:
        self._function = self._compiled = function
        self._compiler = compiler
        if compiler.backend is not None:
            # dynamic=False: another batch size is another program, not a slower one for all sizes.
            self._compiled = torch.compile(function, backend=compiler.backend, dynamic=False, fullgraph=True)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function. Compilation fails before anything has run, so that nothing has moved twice."""
        if self._compiler.mode == "eager":
            return self._function(*args, **kwargs)
        from torch._dynamo.exc import (
            BackendCompilerFailed,
            TorchDynamoException,
        )  # Slow, but here it is in use already.

        try:
            return self._compiled(*args, **kwargs)
        except TorchDynamoException as exc:
            reason = exc.inner_exception if isinstance(exc, BackendCompilerFailed) else exc
            self._compiler.give_up(f"{type(reason).__name__}: {str(reason).strip().partition(chr(10))[0]}")
            return self._function(*args, **kwargs)


def _run_network(network: Network, images: Tensor) -> NetworkOutput:
    output: NetworkOutput = network(images)
    return output


def _run_one(network: OneNetwork, images: Tensor) -> OneOutput:
    output: OneOutput = network(images)
    return output


def _run_objective(
    output: EnsembleOutput,
    labels: Tensor,
    coefficients: GraphCoefficients,
    windows: CropWindows,
    ramp: Tensor,
    probability: bool,
    attention: bool,
) -> Tensor:
    terms = Terms(probability=probability, attention=attention)
    return node_losses(output, labels, coefficients, windows, ramp, terms=terms)


@dataclass(frozen=True, kw_only=True)
class Programs:
    """All programs, compiled by one compiler, and what records the steps that call them."""

    compiler: Compiler
    """What they run under."""
    recorder: Recorder
    """What records whole steps."""
    network: Program[[Network, Tensor], NetworkOutput]
    """The network of a node."""
    one: Program[[OneNetwork, Tensor], OneOutput]
    """The network of ONE."""
    objective: Program[[EnsembleOutput, Tensor, GraphCoefficients, CropWindows, Tensor, bool, bool], Tensor]
    """`node_losses`, its terms as two bools."""
    one_loss: Program[[Tensor, Tensor, tuple[Tensor, ...], Tensor, Tensor], Tensor]
    """`kdhpc.losses.one.one_loss`."""

    @property
    def mode(self) -> Mode:
        """How steps run from now on."""
        return "cudagraph" if self.recorder.record is not None else self.compiler.mode


@functools.cache
def programs(backend: str | None, record: Record | None = None) -> Programs:
    """The process's programs: what one trial compiled, the next one finds.

    Args:
        backend: Of torch.compile (``inductor``); none: as they are.
        record: What records whole steps; none: nothing does.
    """
    compiler = Compiler(backend)
    return Programs(
        compiler=compiler,
        recorder=Recorder(record),
        network=Program(_run_network, compiler),
        one=Program(_run_one, compiler),
        objective=Program(_run_objective, compiler),
        one_loss=Program(one_loss, compiler),
    )


def programs_for(config: DeviceConfig, device: torch.device) -> Programs:
    """The programs that the config means on this device.

    Raises:
        ConfigError: the device cannot run so.
    """
    mode = preferred_mode(config, device)
    return programs(None if mode == "eager" else "inductor", record_cuda_graph if mode == "cudagraph" else None)
