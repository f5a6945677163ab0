"""What a step would launch on a GPU that is not there: torch.compile's own lowering, on a machine without a card.

Dynamo and AOTAutograd trace the step on the CPU. Before Inductor lowers a traced graph, its tensors are replaced by
fake ones on ``cuda``, and what Inductor asks about the card is answered from `Card`. Inductor then writes the code that
it would write on that card, and stops before that code is built. What runs outside of compiled programs is counted
operation by operation, from the same step.

Written for the torch of constraints.txt; another version may ask the card for more, or write its code differently.
"""

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
import torch._inductor.graph
import torch.utils._triton
from torch import fx
from torch._dynamo.device_interface import CudaInterface
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._inductor import compile_fx
from torch._inductor.ir import MultiOutput
from torch._inductor.scheduler import NopKernelSchedulerNode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_LAUNCH_S = 1e-6
"""A kernel in a CUDA graph takes at least this from the end of the one before it; an assumption, not a measurement."""
_CHUNK = 65536
_TENSORS_PER_LAUNCH = {1: 770, 2: 448, 3: 336, 4: 252, 5: 210}
_CHUNKS_PER_LAUNCH = 2240
"""How operations on lists of tensors are cut into launches. Source: ATen/native/cuda/MultiTensorApply.cuh, CUDA 13."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU as its data sheet has it, in the names of ``torch.cuda.get_device_properties``."""

    name: str
    major: int
    minor: int
    multi_processor_count: int
    total_memory: int
    shared_memory_per_block_optin: int
    shared_memory_per_multiprocessor: int
    L2_cache_size: int
    bytes_per_s: float
    """Of its memory."""
    flops_per_s: dict[torch.dtype, float]
    """Of matrix products, without sparsity."""
    regs_per_multiprocessor: int = 65536
    max_threads_per_multi_processor: int = 2048
    max_threads_per_block: int = 1024
    warp_size: int = 32
    shared_memory_per_block: int = 49152
    gcnArchName: str = ""


CARDS = {
    "h200": Card(
        name="NVIDIA H200",
        major=9,
        minor=0,
        multi_processor_count=132,
        total_memory=141 * 10**9,
        shared_memory_per_block_optin=232448,
        shared_memory_per_multiprocessor=233472,
        L2_cache_size=60 << 20,
        bytes_per_s=4.8e12,
        flops_per_s={torch.bfloat16: 989e12, torch.float16: 989e12, torch.float32: 67e12, torch.float64: 67e12},
    )
}


@dataclass
class Launched:
    """What was launched."""

    kernels: Counter[str] = field(default_factory=Counter)
    """By kind."""
    num_bytes: float = 0
    """Read and written."""
    flops: float = 0
    """Of convolutions and matrix products."""
    floor_s: float = 0
    """Each kernel takes at least what its bytes, its FLOPs or its launch take, and none overlap."""

    @property
    def num_kernels(self) -> int:
        """All of them."""
        return self.kernels.total()

    def add(self, other: "Launched") -> None:
        """Also that."""
        self.kernels += other.kernels
        self.num_bytes += other.num_bytes
        self.flops += other.flops
        self.floor_s += other.floor_s


class Lowering:
    """A backend of torch.compile that lowers for a card and runs nothing: its programs give zeros, and are counted.

    Args:
        card: For which.
        options: Of Inductor.
    """

    def __init__(self, card: Card, options: dict[str, object]) -> None:
        self._card = card
        self._options = options
        self.launched: Launched | None = None
        """Where launches are counted; none: they are not."""
        self.num_lowered = 0
        """Graphs, forward and backward."""

    def __call__(self, module: fx.GraphModule, inputs: list[Any]) -> Any:
        """Compile a graph that Dynamo has traced."""
        with torch._inductor.config.patch(self._options):
            return compile_fx.compile_fx(module, inputs, inner_compile=self._lowered)

    def _lowered(self, module: fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Any:
        """Called for a forward or backward graph."""
        kept = ("is_backward", "graph_id", "static_input_idxs", "is_inference", "layout_opt")
        options = {name: value for name, value in options.items() if name in kept}
        moved, fakes, mode = _on_cuda(module, inputs)
        found: list[Launched] = []

        def stop(graph: torch._inductor.graph.GraphLowering) -> None:
            found.append(_read(graph, self._card))
            raise _LoweredError

        patched = mock.patch.object(torch._inductor.graph.GraphLowering, "compile_to_module", stop)
        tracing = torch._guards.tracing(torch._guards.TracingContext(mode))
        # A cached result would skip the lowering.
        config = torch._inductor.config.patch({**self._options, "fx_graph_cache": False, "compile_threads": 1})
        with patched, tracing, config, _pretending(self._card), contextlib.suppress(_LoweredError):
            compile_fx.compile_fx_inner(moved, fakes, **options)
        (once,) = found
        self.num_lowered += 1
        outputs = [_sample(node) for node in tree_leaves(module.graph.output_node().args[0], is_leaf=_is_node)]

        def run(*_: object) -> list[object]:
            if self.launched is not None:
                self.launched.add(once)
            with _disable_current_modes():
                return [_zeros_like(output) for output in outputs]

        return make_boxed_func(run)


class _LoweredError(BaseException):
    """All is known. Not an Exception, which Inductor would wrap."""


class CountedOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the kernels of the operations that run one by one, as CUDA would launch them.

    Args:
        card: On which.
    """

    def __init__(self, card: Card) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._card = card
        self.launched = Launched()
        self.names: Counter[str] = Counter()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Programs run as they were compiled, and are counted by their own."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it, and count."""
        result = func(*args, **(kwargs or {}))
        kernels = _kernels_of(func, args)
        if kernels:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            flops = _flops(func, args, kwargs or {}, result)
            kind = _kind(str(func))
            self.names[str(func)] += kernels
            one = Launched(kernels=Counter({kind: kernels}), num_bytes=num_bytes, flops=flops)
            one.floor_s = _floor_s(self._card, num_bytes, flops, _precision(tensors), kernels)
            self.launched.add(one)
        return result


def _kernels_of(func: Any, args: Sequence[Any]) -> int:
    """Kernels of an operation of ATen; views, allocations and copies to the host are none."""
    namespace, _, name = func._schema.name.partition("::")
    if namespace != "aten" or func.is_view or name in _NO_KERNEL or name.startswith(("empty", "new_empty")):
        return 0
    if name == "convolution_backward":
        return sum(args[10])
    if name.startswith(("_foreach", "_fused")):
        lists = [part for part in args if isinstance(part, (list, tuple)) and len(part)]
        return _list_launches([part for part in lists if isinstance(part[0], torch.Tensor)])
    return 1


_NO_KERNEL = frozenset(
    {"detach", "alias", "lift_fresh", "_unsafe_view", "_reshape_alias", "scalar_tensor", "_local_scalar_dense"}
)


def _list_launches(lists: Sequence[Sequence[torch.Tensor]]) -> int:
    """Launches of one operation on lists of tensors. Source: multi_tensor_apply in MultiTensorApply.cuh."""
    if not lists:
        return 1
    most_tensors = _TENSORS_PER_LAUNCH[len(lists)]
    launches = tensors = chunks = 0
    for tensor in lists[0]:
        tensors += 1
        for chunk in range(remaining := -(-tensor.numel() // _CHUNK)):
            chunks += 1
            last = chunk == remaining - 1
            if (tensors == most_tensors and last) or chunks == _CHUNKS_PER_LAUNCH:
                launches, chunks, tensors = launches + 1, 0, 0 if last else 1
    return launches + bool(chunks)


_LAUNCH = re.compile(r"(\w+)\.run\(|(extern_kernels\.\w+|torch\.ops\.\w+\.\w+(?:\.\w+)?)\((.*)")


def _read(graph: torch._inductor.graph.GraphLowering, card: Card) -> Launched:
    """What the code launches that Inductor has written for a graph."""
    code: Any = graph.codegen()[0]
    text = code.value if hasattr(code, "value") else str(code)
    launched = Launched()
    for run, other, arguments in _LAUNCH.findall(text[text.index("def call(") :]):
        if run:
            launched.kernels["reduction" if run.startswith(("triton_red", "triton_per")) else "pointwise"] += 1
        elif "convolution_backward" in other:
            launched.kernels["convolution"] += arguments.rpartition("[")[2].count("True")
        else:
            launched.kernels[_kind(other)] += 1
    nodes = [node for node in graph.scheduler.nodes if not _is_part(node)]
    for node in nodes:
        num_bytes = node.get_read_write_buffers_sizes()
        origins = [origin for part in node.get_nodes() for origin in _operations(part)]
        flops = sum(_node_flops(origin) for origin in origins)
        dtypes = [tensor for origin in origins for tensor in _tensors_of(origin)]
        launched.num_bytes += num_bytes
        launched.flops += flops
        launched.floor_s += _floor_s(card, num_bytes, flops, _precision(dtypes), 1)
    # Gradients of a convolution are one node and two kernels.
    launched.floor_s += _LAUNCH_S * max(0, launched.num_kernels - len(nodes))
    return launched


def _operations(node: Any) -> list[fx.Node]:
    """What a library is called for: all else has no FLOPs worth counting."""
    return [origin for origin in node.node.origins if _has_flops(origin.target)] if node.is_extern() else []


def _is_part(node: Any) -> bool:
    """Whether it launches nothing: it stands for one of several results."""
    return isinstance(node, NopKernelSchedulerNode) or isinstance(getattr(node, "node", None), MultiOutput)


def _has_flops(func: Any) -> bool:
    return getattr(func, "overloadpacket", None) in flop_registry


def _node_flops(node: fx.Node) -> float:
    values = fx.node.map_arg((node.args, node.kwargs), lambda each: each.meta.get("val"))
    return _flops(node.target, *values, node.meta.get("val"))


def _tensors_of(node: fx.Node) -> list[torch.Tensor]:
    values = [each.meta.get("val") for each in node.all_input_nodes]
    return [value for value in values if isinstance(value, torch.Tensor)]


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> float:
    return float(flop_registry[func.overloadpacket](*args, **kwargs, out_val=result)) if _has_flops(func) else 0.0


def _precision(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    """That a product is computed in: the coarsest of what it reads."""
    dtypes = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    return min(dtypes, key=lambda dtype: dtype.itemsize, default=torch.float32)


def _floor_s(card: Card, num_bytes: float, flops: float, precision: torch.dtype, kernels: int) -> float:
    return max(num_bytes / card.bytes_per_s, flops / card.flops_per_s[precision], kernels * _LAUNCH_S)


def _kind(name: str) -> str:
    """Of an operation or an external kernel."""
    if "convolution" in name:
        return "convolution"
    if re.search(r"\b(add)?(ba?d?d?b?)?mm(_out)?\b|linear", name):
        return "product"
    if "_fused_" in name or "_foreach_" in name:
        return "optimizer"
    return "other"


def _on_cuda(module: fx.GraphModule, inputs: Sequence[Any]) -> tuple[fx.GraphModule, list[Any], FakeTensorMode]:
    """A traced graph, and its inputs, as they would be on a card."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    cuda = torch.device("cuda:0")

    def fake(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        with mode:
            return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=cuda)

    moved = fx.GraphModule(module, type(module.graph)())
    copied = type(module.graph)()
    values: dict[fx.Node, fx.Node] = {}
    output = copied.graph_copy(module.graph, values)
    copied.output(output)
    copied.output_node().meta.update(module.graph.output_node().meta)
    for node in copied.nodes:
        if node.kwargs.get("device") is not None:
            node.kwargs = {**node.kwargs, "device": cuda}
        if node.target is torch.ops.prims.device_put.default:
            node.args = (node.args[0], cuda)
        node.meta.pop("val", None)
        node.meta.pop("tensor_meta", None)
    moved.graph = copied
    moved.recompile()
    fakes = [fake(value) for value in inputs]
    with _pretending(CARDS["h200"]):  # Convolutions ask which memory format cuDNN would choose.
        FakeTensorProp(moved, mode).propagate_dont_convert_inputs(*fakes)
    return moved, fakes, mode


def _is_node(value: object) -> bool:
    return isinstance(value, fx.Node) or value is None


def _sample(node: object) -> object:
    return node.meta["val"] if isinstance(node, fx.Node) else node


def _zeros_like(value: object) -> object:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype).zero_()


@contextlib.contextmanager
def _pretending(card: Card) -> Iterator[None]:
    """Let torch think that this card is there."""

    def always(value: object) -> Callable[..., object]:
        return lambda *_, **__: value

    cuda = {
        "get_device_properties": card, "is_available": True, "device_count": 1, "current_device": 0,
        "get_device_capability": (card.major, card.minor), "synchronize": None, "memory_allocated": 0,
        "mem_get_info": (card.total_memory, card.total_memory), "is_bf16_supported": True, "_lazy_init": None,
        "_exchange_device": 0, "_maybe_exchange_device": 0, "is_initialized": False,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8), "set_rng_state": None,
    }  # fmt: skip
    interface = {
        "get_device_properties": card, "get_compute_capability": 10 * card.major + card.minor, "is_available": True,
        "current_device": 0, "device_count": 1, "is_triton_capable": True, "raise_if_triton_unavailable": None,
        "is_bf16_supported": True,
    }  # fmt: skip
    worker = {"get_device_properties": card, "current_device": 0}
    triton = {
        "has_triton": True,
        "has_triton_package": True,
        "triton_hash_with_backend": "0" * 16,
        "triton_backend": None,
    }
    with contextlib.ExitStack() as stack:
        for name, value in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, always(value)))
        for name, value in interface.items():
            stack.enter_context(mock.patch.object(CudaInterface, name, staticmethod(always(value))))
        for name, value in worker.items():
            stack.enter_context(mock.patch.object(CudaInterface.Worker, name, staticmethod(always(value))))
        for module in [each for name, each in sys.modules.items() if name.startswith("torch.")]:
            for name in triton.keys() & vars(module).keys():
                stack.enter_context(mock.patch.object(module, name, always(triton[name])))
        stack.enter_context(mock.patch.object(torch._C, "_conv_determine_backend_memory_format", _conv_format))
        yield


def _conv_format(image: torch.Tensor, weight: torch.Tensor, _: object) -> torch.memory_format:
    """What cuDNN does: channels last if either is."""
    channels_last = any(each.is_contiguous(memory_format=torch.channels_last) for each in (image, weight))
    return torch.channels_last if channels_last else torch.contiguous_format
