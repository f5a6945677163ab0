"""``tools/bench launches``: the kernels of a whole step on a GPU, counted without one, beside the published loop's.

A whole step is all that a GPU does for a batch: gathering and augmenting it, the networks, the losses, the backward
pass, the updates, and what the loop keeps of the losses. Copies between host and device are left out on both sides.
"""

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from kdhpc.config.schema import NetworkConfig, SearchConfig, TrainingConfig
from kdhpc.data.batches import Batch, EvalBatches, TrainBatches
from kdhpc.data.store import ResidentImages
from kdhpc.data.transform import Transform
from kdhpc.methods.graph import GraphMethod
from kdhpc.networks.build import build_network
from kdhpc.training.compile import Programs, combining, programs
from kdhpc.training.device import Precision, autocast_dtype
from kdhpc.training.loop import TrainingLoop
from kdhpc.training.runtime import resolve_runtime
from kdhpc.training.setting import TrainingSetting
from tools.benchmarks.lowering import CARDS, Card, CountedOperations, Launched, Lowering
from tools.benchmarks.noise import Size, config_of, noise_batches
from tools.benchmarks.peers_published import PerEdgeLosses, PublishedLoop
from tools.benchmarks.report import Cell, Report
from tools.benchmarks.step import crops_of, full_graph

_CLASSES = 100
_PRECISIONS: tuple[Precision, ...] = ("float32", "bf16")
KINDS = ("convolution", "product", "reduction", "pointwise", "optimizer", "other")
"""Of kernels: cuDNN's, cuBLAS's, Inductor's that reduce and that do not, updates, and what runs outside of programs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is counted."""
    parser.add_argument("--network", nargs="+", default=["resnet20"], metavar="NAME", help="default: resnet20")
    parser.add_argument("--nodes", nargs="+", type=int, default=[4], metavar="M", help="default: 4")
    parser.add_argument("--batch", nargs="+", type=int, default=[16], metavar="N", help="default: 16")
    parser.add_argument("--precision", choices=_PRECISIONS, default="bf16", help="default: bf16")
    parser.add_argument("--separate", action="store_true", help="launch one by one, as with device.combine=false")
    parser.add_argument("--card", choices=tuple(CARDS), default="h200", help="default: h200")
    parser.add_argument("--image-size", type=int, help="pixels (default: 32, and 224 for ImageNet's networks)")


def run(arguments: argparse.Namespace) -> Report:
    """Count all cells."""
    torch.set_num_threads(1)
    card = CARDS[arguments.card]
    rows: list[dict[str, Cell]] = []
    for network in arguments.network:
        for num_nodes in arguments.nodes:
            for batch_size in arguments.batch:
                size = Size(
                    num_nodes=num_nodes, batch_size=batch_size, image_size=arguments.image_size, num_steps=2
                )  # fmt: skip
                ours = our_step(network, size, arguments.precision, card, combines=not arguments.separate)
                rows.append(_row(network, size, ours, published_step(network, size, arguments.precision, card)))
    return Report(
        title=f"Kernels of a training step on an {card.name}, lowered without one",
        settings={"precision": arguments.precision, "graph": "all edges prob+att+, through", "classes": _CLASSES},
        rows=rows,
        rows_alone=True,
        notes=(
            "kernels: of the whole step. A call of cuDNN is one, whatever cuDNN makes of it: a convolution is one "
            "forward, and one for each of its gradients. floor_ms: each kernel takes what its bytes take from memory, "
            "its FLOPs, or 1 microsecond, and none overlap; the 1 is an assumption. peer: the published style of "
            "loop, a loss an edge with crops in tensors, an SGD a node, uncompiled.",
        ),
    )


def our_step(network: str, size: Size, precision: Precision, card: Card, *, combines: bool) -> Launched:
    """What our compiled step launches."""
    config = config_of(network, size, device="cpu", mode="compile", precision=precision)
    lowering = Lowering(card, combining() if combines else {})
    with _as_on_a_gpu():
        train, evaluation = _resident(config)
        compiled = programs(lowering, batch_backend=lowering, combines=combines)
        training = _training_of(config, train, evaluation, compiled)
        steps = training.steps()
        next(steps)  # Compiles.
        assert training.mode == "compile", "a program could not be lowered"
        assert compiled.combines is combines, "a program could not be combined"
        counted = CountedOperations(card)
        lowered = lowering.num_lowered
        lowering.launched = counted.launched
        with counted:
            next(steps)
        assert lowering.num_lowered == lowered, "the second step was compiled again"
    return counted.launched


def published_step(network: str, size: Size, precision: Precision, card: Card) -> Launched:
    """What the published style of loop launches."""
    side = size.pixels(network)
    config = NetworkConfig(name=network, crops=crops_of(network, side))
    autocast = autocast_dtype(precision)
    # SGD works on lists of tensors where all are on a GPU.
    lists = mock.patch("torch.optim.sgd._default_to_fused_or_foreach", return_value=(False, True))
    # Networks without values can be neither copied nor moved, and these need not be: they are new.
    uncopied = mock.patch("tools.benchmarks.peers_published.copy.deepcopy", lambda network: network)
    unmoved = mock.patch.object(torch.nn.Module, "to", lambda network, **_: network)
    with FakeTensorMode(), lists, uncopied, unmoved:
        networks = [build_network(config, num_classes=_CLASSES, image_size=side) for _ in range(size.num_nodes)]
        loop = PublishedLoop(
            networks, full_graph(size.num_nodes), TrainingConfig(), PerEdgeLosses(crops_of(network, side)),
            waits=False, autocast=autocast,
        )  # fmt: skip
        batch = Batch(
            images=torch.zeros(size.batch_size, 3, side, side), labels=torch.zeros(size.batch_size, dtype=torch.int64)
        )
        loop.step(batch, 0.5, 0.1)  # Makes the momentum.
        counted = CountedOperations(card)
        with counted:
            loop.step(batch, 0.5, 0.1)
    return counted.launched


def _row(network: str, size: Size, ours: Launched, peer: Launched) -> dict[str, Cell]:
    return {
        "network": network,
        "nodes": size.num_nodes,
        "batch": size.batch_size,
        "px": size.pixels(network),
        "kernels": ours.num_kernels,
        "peer_kernels": peer.num_kernels,
        "ratio": peer.num_kernels / ours.num_kernels,
        "floor_ms": 1e3 * ours.floor_s,
        "peer_floor_ms": 1e3 * peer.floor_s,
        "GB": ours.num_bytes / 1e9,
        "peer_GB": peer.num_bytes / 1e9,
        "GFLOP": ours.flops / 1e9,
        "peer_GFLOP": peer.flops / 1e9,
        **{kind: ours.kernels[kind] for kind in KINDS},
    }


def _training_of(
    config: SearchConfig, train: TrainBatches, evaluation: EvalBatches, compiled: Programs
) -> TrainingLoop:
    setting = TrainingSetting(
        network=config.network,
        objective=config.objective,
        training=config.training,
        runtime=replace(resolve_runtime(config.device), given_programs=compiled),
        train=train,
        evaluation=evaluation,
        num_classes=_CLASSES,
    )
    return TrainingLoop(GraphMethod(graph=full_graph(config.study.num_nodes)), setting, seed=0)


def _resident(config: SearchConfig) -> tuple[TrainBatches, EvalBatches]:
    """Batches of images that are on the device, as they are on a GPU."""
    with mock.patch("kdhpc.data.batches.store_images", ResidentImages):
        return noise_batches(config, 2)


@contextlib.contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Resize a batch at once: on a CPU, it would be done image by image."""
    with mock.patch.object(Transform, "__call__", Transform._whole):
        yield
