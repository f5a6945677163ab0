"""Which weights of a node a graph teaches: those that the loss of some active edge depends on.

If a node's label edge is cut off and only attention designs teach it, no loss depends on its classifier. The gradients
of the classifier are zeros, but weight decay and momentum would change it, and so the node's logits. So weights are put
into groups that the same kinds of knowledge reach, and for each graph a tensor says which groups stay as they are.
Another graph is another value of that tensor: nothing is compiled or recorded again, and no step waits for the host.

Source: in the authors' code, a cut off edge has no loss, weights without a loss have no gradient, and the optimiser
leaves them alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdhpc.graph.spec import GraphSpec
from kdhpc.losses.coefficients import Knowledge, knowledge_taught
from kdhpc.networks.build import Network
from kdhpc.networks.output import NetworkOutput


@dataclass(frozen=True, kw_only=True)
class WeightGroup:
    """Weights that the same kinds of knowledge reach."""

    names: tuple[str, ...]
    """The weights, by the network's names, in its order."""
    reached_by: frozenset[Knowledge]
    """Kinds of knowledge by which an edge changes these weights: its loss depends on them. Empty: no edge does."""


def weight_groups(network: Network, image_size: int) -> tuple[WeightGroup, ...]:
    """All weights of a network, grouped by the kinds of knowledge that reach them, as autograd's graph shows.

    Args:
        network: In training mode, with gradients; nothing of it changes.
        image_size: Side of an image that it takes, in pixels.
    """
    weight = next(network.parameters())
    image = torch.zeros(1, 3, image_size, image_size, dtype=weight.dtype, device=weight.device)
    network.eval()  # Batch norm leaves its statistics alone, and takes a single image.
    try:
        with torch.enable_grad():
            output = network(image)
    finally:
        network.train()
    reached = {knowledge: set(_weights_behind(_outputs(output, knowledge))) for knowledge in Knowledge}
    names: dict[frozenset[Knowledge], list[str]] = {}
    for name, parameter in network.named_parameters():
        by = frozenset(knowledge for knowledge in Knowledge if id(parameter) in reached[knowledge])
        names.setdefault(by, []).append(name)
    return tuple(WeightGroup(names=tuple(group), reached_by=by) for by, group in names.items())


def weight_groups_of_all(
    networks: Sequence[Network], image_size: int, *, same_as: Sequence[int]
) -> tuple[tuple[WeightGroup, ...], ...]:
    """:func:`weight_groups` of each network. All have groups of the same kinds in the same order; some may be empty.

    Args:
        networks: In training mode, with gradients; nothing of them changes.
        image_size: Side of an image that they take, in pixels.
        same_as: For each network the index of the first one that differs from it in its weights' values at most.
    """
    each = {index: weight_groups(networks[index], image_size) for index in dict.fromkeys(same_as)}
    found = [{group.reached_by: group for group in each[index]} for index in same_as]
    kinds = dict.fromkeys(kind for groups in found for kind in groups)
    return tuple(tuple(groups.get(kind, WeightGroup(names=(), reached_by=kind)) for kind in kinds) for groups in found)


def untaught(graph: GraphSpec, groups: Sequence[WeightGroup]) -> Tensor:
    """Which weights of which nodes a graph does not teach.

    Returns:
        (M, G) for M nodes and G groups, float32, on the CPU: 1 if no active edge into the node reaches the weights of
        the group, else 0.
    """
    return torch.tensor(
        [[float(group.reached_by.isdisjoint(taught)) for group in groups] for taught in knowledge_taught(graph)]
    )


def _outputs(output: NetworkOutput, knowledge: Knowledge) -> tuple[Tensor, ...]:
    """What the losses of edges that teach by it depend on."""
    if knowledge is Knowledge.LABEL:
        return (output.logits, *output.extra_hard_logits)
    return (output.logits if knowledge is Knowledge.PROBABILITY else output.attention_map,)


def _weights_behind(outputs: tuple[Tensor, ...]) -> Iterator[int]:
    """The ids of all leaves that the outputs depend on."""
    waiting = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        function = waiting.pop()
        if hasattr(function, "variable"):
            yield id(function.variable)
        for following, _ in function.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
