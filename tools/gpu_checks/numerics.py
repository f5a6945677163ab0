"""Losses, gradients and whole steps on the device in float32, against the same in float64 on the CPU.

What float32 itself loses is the yardstick: the CPU in float32, against the CPU in float64. The device may be ten times
worse, as it adds in another order, and no more: TF32, which keeps 10 bits of a fraction, is a thousand times worse.

Dimension suffixes: M nodes, N samples, C classes, H, W rows and columns of an attention map.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from kdhpc.config.schema import DeviceConfig, NetworkConfig, SearchConfig, TrainingConfig
from kdhpc.data.batches import Batch
from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec
from kdhpc.losses.coefficients import all_terms, graph_coefficients
from kdhpc.losses.distillation import crop_windows
from kdhpc.losses.objective import EnsembleOutput, node_losses
from kdhpc.methods.graph import GraphModel, graph_losses
from kdhpc.networks.build import Network
from kdhpc.networks.names import architecture, map_side
from kdhpc.training.compile import Programs, programs
from kdhpc.training.learner import Learner
from kdhpc.training.schedule import ScheduleStep
from tools.benchmarks.step import NoBatches, batch_of, crops_of
from tools.benchmarks.step import StepCell as Cell
from tools.gpu_checks.check import Check, DiffersError, Numbers, Scale
from tools.gpu_checks.setting import (
    NUM_CLASSES,
    config_of,
    device_of,
    pixels_of,
    programs_of,
    random_graph,
    setting_of,
    with_device,
)

_WORSE = 10
"""Times the CPU's own rounding that the device may be off."""
_LEAST_LOSS = 1e-5
"""Share of the largest value that it may be off in any case."""
_LEAST_STEP = 1e-4
"""The same of a step, in norms: convolutions by Winograd's algorithm lose that."""
_RAMP = 0.375
_CPU = torch.device("cpu")


def checks(scale: Scale) -> Iterator[Check]:
    """Losses of all designs and gates, then steps of whole networks."""
    for network in scale.networks:
        for num_nodes in scale.node_counts:
            yield Check(
                name=f"losses and gradients, {network}, M={num_nodes}",
                run=lambda network=network, num_nodes=num_nodes: losses_check(  # type: ignore[misc]
                    scale, network, num_nodes, programs(None)
                ),
            )
    for network in scale.networks:
        yield Check(
            name=f"network step without TF32, {network}",
            run=lambda network=network: step_check(scale, network),  # type: ignore[misc]
        )


def compiled_checks(scale: Scale) -> Iterator[Check]:
    """The compiled program of the losses."""
    for network in scale.networks:
        yield Check(
            name=f"compiled losses, {network}, M={scale.num_nodes}",
            run=lambda network=network: losses_check(  # type: ignore[misc]
                scale, network, scale.num_nodes, programs_of(scale, None)
            ),
        )


def losses_check(scale: Scale, network: str, num_nodes: int, computing: Programs) -> Numbers:
    """The losses of all designs and gates, and their gradients, of given outputs of that network's shapes."""
    leaves = _leaves(scale, network, num_nodes)
    labels = torch.arange(scale.batch_size) % NUM_CLASSES
    worst = rounding = 0.0
    graphs = [*_uniform_graphs(num_nodes), *(random_graph(num_nodes, number) for number in range(4))]
    plain = programs(None)
    for graph in graphs:
        expected = _losses(scale, graph, network, leaves, labels, _CPU, torch.float64, plain)
        on_cpu = _losses(scale, graph, network, leaves, labels, _CPU, torch.float32, plain)
        found = _losses(scale, graph, network, leaves, labels, device_of(scale), torch.float32, computing)
        for name, reference in expected.items():
            largest = reference.abs().max().item() + 1e-6
            off = (found[name] - reference).abs().max().item() / largest
            own = (on_cpu[name] - reference).abs().max().item() / largest
            if not off <= _WORSE * own + _LEAST_LOSS:
                raise DiffersError(
                    f"{name} of {_described(graph)}: off by {off:.2g} of the largest, the CPU's float32 by {own:.2g}"
                )
            worst, rounding = max(worst, off), max(rounding, own)
    return {"graphs": len(graphs), "off by": worst, "CPU's float32 off by": rounding}


def _leaves(scale: Scale, network: str, num_nodes: int) -> EnsembleOutput:
    """Outputs as that network has them, but random; the label is right often enough for ``correct`` gates."""
    generator = torch.Generator().manual_seed(num_nodes)
    side = map_side(network, pixels_of(scale, network))
    shape = (num_nodes, scale.batch_size, NUM_CLASSES)
    logits = 3 * torch.randn(shape, generator=generator)
    labels = torch.arange(scale.batch_size) % NUM_CLASSES
    logits[:, ::2] += 12 * torch.nn.functional.one_hot(labels, NUM_CLASSES)[::2]
    maps = torch.rand(num_nodes, scale.batch_size, side, side, generator=generator)
    extra = (torch.randn(shape, generator=generator),) if architecture(network).attention_branch else ()
    return EnsembleOutput(logits, maps, extra)


def _losses(
    scale: Scale,
    graph: GraphSpec,
    network: str,
    leaves: EnsembleOutput,
    labels: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    computing: Programs,
) -> dict[str, Tensor]:
    """Losses and gradients, in float64 on the CPU, wherever they were computed."""

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype, copy=True).requires_grad_()

    output = EnsembleOutput(
        leaf(leaves.logits_MNC), leaf(leaves.maps_MNHW), tuple(leaf(extra) for extra in leaves.extra_logits_MNC)
    )
    pixels = pixels_of(scale, network)
    side = map_side(network, pixels)
    losses = computing.of(graph_losses)(
        output,
        labels.to(device),
        graph_coefficients(graph, device=device, dtype=dtype),
        crop_windows(crops_of(network, pixels), height=side, width=side, reduction="mean", device=device, dtype=dtype),
        torch.tensor(_RAMP, device=device, dtype=dtype),
        all_terms(graph.num_nodes),
    )
    if losses.requires_grad:
        losses.sum().backward()  # type: ignore[no-untyped-call]
    found = {"losses": losses.detach()}
    for name, tensor in (("logits", output.logits_MNC), ("maps", output.maps_MNHW)):
        found[f"gradients of the {name}"] = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
    return {name: tensor.detach().to("cpu", torch.float64) for name, tensor in found.items()}


def _uniform_graphs(num_nodes: int) -> Iterator[GraphSpec]:
    """Every design with every gate, on all edges; the gates of labels in turn."""
    gates = list(Gate)
    for index, design in enumerate(Design):
        for gate in Gate:
            yield GraphSpec(
                label_gates=tuple(gates[(index + node) % len(gates)] for node in range(num_nodes)),
                edges=tuple(
                    DistillationEdge(source=source, target=target, design=design, gate=gate)
                    for source in range(num_nodes)
                    for target in range(num_nodes)
                    if source != target
                ),
            )


def _described(graph: GraphSpec) -> str:
    kinds = sorted({f"{edge.design.value} {edge.gate.value}" for edge in graph.edges})
    return f"a graph of {', '.join(kinds[:2])}{' and others' if len(kinds) > 2 else ''}"


def step_check(scale: Scale, network: str) -> Numbers:
    """A step of two networks: losses, statistics, momentum and weights, against float64."""
    config = config_of(scale, network, num_nodes=2, training=TrainingConfig(batch_size=min(scale.batch_size, 8)))
    graph = random_graph(2, 1)
    cell = Cell(
        network=network,
        num_nodes=2,
        batch_size=config.training.batch_size,
        image_size=config.dataset.image_size,
        device=DeviceConfig(device="cpu"),
    )
    batch = batch_of(cell)
    on_cpu = _step(config, graph, batch, _CPU)
    # Which weights the graph reaches is no matter of rounding.
    moving = {name for name, tensor in on_cpu.items() if _kind(name) == "momentum" and tensor.any()}
    expected = _reference_step(config, graph, batch, moving)
    found = _step(config, graph, batch, device_of(scale))
    worst, rounding = 0.0, 0.0
    largest = {kind: max(t.norm().item() for n, t in expected.items() if _kind(n) == kind) for kind in _KINDS}
    for name, reference in expected.items():
        norm = reference.norm().item() + 0.1 * largest[_kind(name)]
        off = (found[name] - reference).norm().item() / norm
        own = (on_cpu[name] - reference).norm().item() / norm
        if not off <= _WORSE * own + _LEAST_STEP:
            raise DiffersError(f"{name} is off by {off:.2g} of its norm, the CPU's float32 by {own:.2g}")
        worst, rounding = max(worst, off), max(rounding, own)
    return {"tensors": len(expected), "off by": worst, "CPU's float32 off by": rounding}


_KINDS = ("losses", "momentum", "weight", "statistics")


def _kind(name: str) -> str:
    return name.partition(" ")[0]


def _learner(config: SearchConfig, graph: GraphSpec, device: torch.device) -> Learner:
    config = with_device(config, device=device.type, precision="float32", mode="eager")
    setting = setting_of(config, NoBatches(config.dataset.image_size), (), programs=programs(None))
    return Learner(GraphModel(graph, setting, seed=0), config.training)


def _step(config: SearchConfig, graph: GraphSpec, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """What our step leaves, in float64 on the CPU."""
    learner = _learner(config, graph, device)
    there = Batch(images=batch.images.to(device), labels=batch.labels.to(device))
    losses = learner.step(there, ScheduleStep(epoch=1, step=3, num_steps=8))
    found = {"losses": losses.to("cpu", torch.float64)}
    for index, state in enumerate(learner.state(), start=1):
        for name, tensor in state.tensors.items():
            if tensor.is_floating_point():
                kind = "weight" if name in state.momentum else "statistics"
                found[f"{kind} {name} of node {index}"] = tensor.double()
        for name, tensor in state.momentum.items():
            found[f"momentum {name} of node {index}"] = tensor.double()
    return found


def _reference_step(config: SearchConfig, graph: GraphSpec, batch: Batch, moving: set[str]) -> dict[str, Tensor]:
    """The same in float64, the update written out: of a zero momentum, the first step makes the decayed gradient."""
    learner = _learner(config, graph, _CPU)
    networks = [network.double() for network in learner.model.networks]
    before = [{name: weight.detach().clone() for name, weight in network.named_parameters()} for network in networks]
    losses = _double_losses(config.network, graph, networks, batch, config.dataset.image_size)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    found = {"losses": losses.detach()}
    decay, rate = config.training.weight_decay, config.training.learning_rate
    for index, network in enumerate(networks, start=1):
        for name, weight in network.named_parameters():
            old = before[index - 1][name]
            gradient = torch.zeros_like(old) if weight.grad is None else weight.grad
            moves = f"momentum {name} of node {index}" in moving
            momentum = gradient + decay * old if moves else torch.zeros_like(old)
            found[f"momentum {name} of node {index}"] = momentum
            found[f"weight {name} of node {index}"] = old - rate * momentum
        for name, buffer in network.named_buffers():
            if buffer.is_floating_point():
                found[f"statistics {name} of node {index}"] = buffer.clone()
    return found


def _double_losses(
    config: NetworkConfig, graph: GraphSpec, networks: list[Network], batch: Batch, image_size: int
) -> Tensor:
    outputs = [network(batch.images.double()) for network in networks]
    side = map_side(config.name, image_size)
    return node_losses(
        EnsembleOutput(
            torch.stack([output.logits for output in outputs]),
            torch.stack([output.attention_map.double() for output in outputs]),
            tuple(
                torch.stack(logits) for logits in zip(*(output.extra_hard_logits for output in outputs), strict=True)
            ),
        ),
        batch.labels,
        graph_coefficients(graph, device="cpu", dtype=torch.float64),
        crop_windows(config.crops or (), height=side, width=side, reduction="mean", device="cpu", dtype=torch.float64),
        torch.tensor(3 / 8, dtype=torch.float64),
        terms=all_terms(graph.num_nodes),
    )
