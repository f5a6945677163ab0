"""Programs: the functions that a step calls, compiled or as they are. Methods name them, see `Programs.of`.

A program is compiled once for given shapes and serves all nodes, graphs and trials: a network's weights and a graph's
coefficients are its inputs.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from kdhpc.training.batches import ImageBatch, TrainSource
from kdhpc.training.compile_folder import keep_private
from kdhpc.training.cuda_graph import Record, Recorder, record_cuda_graph
from kdhpc.training.device import Mode
from kdhpc.training.device_errors import first_line, is_of_device
from kdhpc.training.toolchain import missing_tool

_LOG = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

Backend = str | Callable[..., Any]
"""A backend of torch.compile: its name, or a function that compiles an FX graph."""
_VARIANTS = 64
"""How often torch.compile may compile one program anew before it gives up; its default is 8."""


class Compiler:
    """Decides how programs run: compiled by torch.compile, or as they are once that has failed.

    Args:
        backend: Backend of torch.compile; None: nothing is compiled.
        combines: Launch independent work of a program together, see `combining`. If that fails, compile without it.
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
            # It warns of a CUDA toolkit on a machine without a GPU, as login nodes are.
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
            # Backward passes run outside of autocast here, also those that were traced within it.
            backward_config.backward_pass_autocast = "off"

    @property
    def mode(self) -> Literal["eager", "compile"]:
        """How programs run from now on."""
        return "eager" if self.backend is None else "compile"

    def give_up(self, error: Exception) -> None:
        """Combine nothing from now on; if nothing was combined, compile nothing from now on. The reason is logged."""
        reason = first_line(getattr(error, "inner_exception", error))  # torch wraps what a backend raised.
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
    """Options with which Inductor launches independent kernels together. Those that its version lacks are left out.

    Combined are kernels that are equally far from the inputs: the same layer of all networks, and the casts of all
    weights. By default Inductor combines at most 8, and none if that keeps memory in use for longer. Both limits are
    changed: what is kept longest here are weights in half precision, which the backward pass needs anyway.
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
        """Call the function. If compiling it fails, it is called as it is.

        Then nothing has run before, so no tensor is updated twice. The backward pass is an exception, as it may be
        compiled only when it runs: see ``TrainingStep``.

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


def _make_batch(source: TrainSource, spec: tuple[Tensor, ...]) -> ImageBatch:
    return source.make(spec)


@dataclass(frozen=True, kw_only=True)
class Programs:
    """All programs, and what records the steps that call them."""

    compiler: Compiler
    """The compiler of all programs but ``batch``."""
    recorder: Recorder
    """Records whole steps as CUDA graphs."""
    batch: Program[[TrainSource, tuple[Tensor, ...]], ImageBatch]
    """Makes a batch from its spec. It has a compiler of its own: if that fails, only this program is slower."""
    _made: dict[Callable[..., Any], Program[..., Any]] = field(default_factory=dict, repr=False)

    def of(self, function: Callable[P, R]) -> Program[P, R]:
        """The program of a function: the same one in every call, so that it is compiled once.

        Args:
            function: A function of a module, not one that is made anew for each training. Its arguments are tensors,
                modules, and plain values that are the same in each step.
        """
        if function not in self._made:
            self._made[function] = Program(function, self.compiler)
        return cast("Program[P, R]", self._made[function])

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
        """Whether steps are recorded from now on."""
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
        backend: Backend of torch.compile; None: nothing is compiled. ``inductor`` is used only if its files can be kept
            safe from other users.
        record: Records whole steps; None: nothing is recorded.
        batch_backend: Backend for the program that makes batches.
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
    )


def programs_in(mode: Mode, device: torch.device, *, combines: bool = False) -> Programs:
    """The programs for a mode and a device.

    Args:
        mode: How steps are to run.
        device: Where they run.
        combines: Launch equal work of all nodes together, if it is compiled.
    """
    backend = None if mode == "eager" else "inductor"
    return programs(
        backend,
        record_cuda_graph if mode == "cudagraph" else None,
        # On a CPU, resizing block by block is twice as fast as all that Inductor makes of it.
        batch_backend=backend if device.type == "cuda" else None,
        combines=combines,
    )
