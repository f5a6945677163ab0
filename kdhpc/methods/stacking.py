"""The outputs of all nodes side by side, also where nodes are different networks.

Attention maps of two nodes are compared at the size of the smaller one. So maps of several sizes are stacked once for
each size: larger ones are averaged down to it. Which pairs are compared at which size is the value of a tensor, and all
shapes follow from the networks that nodes may be. So what was compiled for the losses serves every choice of them.

Dimension suffixes: M nodes; S sources and T targets (both M); N samples; C classes; H, W rows and columns of a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdhpc.config.schema import ObjectiveConfig
from kdhpc.losses.distillation import CropWindows, crop_windows
from kdhpc.losses.objective import EnsembleOutput, MapLevel
from kdhpc.networks.build import Network
from kdhpc.networks.output import NetworkOutput


@dataclass(frozen=True, kw_only=True)
class OutputShape:
    """What differs between the outputs of networks."""

    map_side: int
    """Side of the square attention map, in pixels."""
    num_extra: int = 0
    """Number of classifiers beside the one that votes."""


def output_shape(network: Network, image_size: int) -> OutputShape:
    """The shape of a network's output, found by a dry run.

    Args:
        network: In training mode; nothing of it changes.
        image_size: Side of an image that it takes, in pixels.
    """
    weight = next(network.parameters())
    image = torch.zeros(1, 3, image_size, image_size, dtype=weight.dtype, device=weight.device)
    network.eval()  # Batch norm leaves its statistics alone, and takes a single image.
    try:
        with torch.no_grad():
            output: NetworkOutput = network(image)
    finally:
        network.train()
    return OutputShape(map_side=output.attention_map.shape[-1], num_extra=len(output.extra_hard_logits))


class Stacking:
    """Stacks the outputs of nodes.

    Args:
        possible: Shapes of all networks that a node may be.
        nodes: Of those that the nodes are, see :meth:`choose`.
        crops: Sides of the crops, none larger than the smallest map.
        objective: How the pixels of a crop are reduced.
        device: Where the outputs will be.
    """

    def __init__(
        self,
        possible: Sequence[OutputShape],
        nodes: Sequence[OutputShape],
        *,
        crops: tuple[int, ...],
        objective: ObjectiveConfig,
        device: torch.device,
    ) -> None:
        self._sides = sorted({shape.map_side for shape in possible}, reverse=True)
        self._num_extra = max(shape.num_extra for shape in possible)
        all_windows = [
            crop_windows(
                crops,
                height=side,
                width=side,
                reduction=objective.attention_reduction,
                device=device,
                dtype=torch.float32,
            )
            for side in self._sides
        ]
        self.windows: CropWindows = all_windows[0]
        """For the largest maps."""
        self._smaller_windows = all_windows[1:]
        num_nodes = len(nodes)
        self._pairs = [torch.zeros(num_nodes, num_nodes, dtype=torch.bool, device=device) for _ in self._sides[1:]]
        # Only where some network lacks a classifier that another one has.
        lacks = any(shape.num_extra < self._num_extra for shape in possible)
        self._has_extra = [torch.zeros(num_nodes, device=device) for _ in range(self._num_extra if lacks else 0)]
        self._nodes = tuple(nodes)
        self.choose(nodes)

    @property
    def is_plain(self) -> bool:
        """Whether all outputs have the same shape, whatever network a node is."""
        return len(self._sides) == 1 and not self._has_extra

    def choose(self, nodes: Sequence[OutputShape]) -> None:
        """Take outputs of these shapes from now on, in the same memory."""
        self._nodes = tuple(nodes)
        side_M = torch.tensor([shape.map_side for shape in nodes])
        smaller_MM = torch.minimum(side_M.unsqueeze(1), side_M.unsqueeze(0))
        for side, pairs_ST in zip(self._sides[1:], self._pairs, strict=True):
            pairs_ST.copy_(smaller_MM == side)
        for index, has_extra_M in enumerate(self._has_extra):
            has_extra_M.copy_(torch.tensor([float(shape.num_extra > index) for shape in nodes]))

    def stack(self, outputs: Sequence[NetworkOutput]) -> EnsembleOutput:
        """The outputs of all nodes."""
        if self.is_plain:
            return stacked(outputs)
        maps = [self._at(side, outputs) for side in self._sides]
        levels = zip(maps[1:], self._smaller_windows, self._pairs, strict=True)
        return EnsembleOutput(
            torch.stack([output.logits for output in outputs]),
            maps[0],
            tuple(_extra(index, outputs) for index in range(self._num_extra)),
            tuple(MapLevel(*level) for level in levels),
            tuple(self._has_extra),
        )

    def _at(self, side: int, outputs: Sequence[NetworkOutput]) -> Tensor:
        """(M, N, side, side): maps of that size or averaged down to it; smaller ones stretched, without gradients."""
        maps = torch.stack([_resized(output.attention_map, side) for output in outputs])
        return _alike(maps, [output.attention_map for output in outputs])


def stacked(outputs: Sequence[NetworkOutput]) -> EnsembleOutput:
    """Outputs of one shape, those of all nodes."""
    extra = zip(*(output.extra_hard_logits for output in outputs), strict=True)
    return EnsembleOutput(
        torch.stack([output.logits for output in outputs]),
        torch.stack([output.attention_map for output in outputs]),
        tuple(torch.stack(logits) for logits in extra),
    )


def _resized(map_NHW: Tensor, side: int) -> Tensor:
    own_side = map_NHW.shape[-1]
    if own_side == side:
        return map_NHW
    if own_side < side:  # Not compared at this size. Zeros might give a plug-in's loss gradients that are none.
        return F.interpolate(map_NHW.detach().unsqueeze(1), size=(side, side)).squeeze(1)
    return F.adaptive_avg_pool2d(map_NHW, side)


def _extra(index: int, outputs: Sequence[NetworkOutput]) -> Tensor:
    """(M, N, C): logits of a further classifier; zeros for nodes without it."""
    extra = torch.stack(
        [
            output.extra_hard_logits[index]
            if index < len(output.extra_hard_logits)
            else torch.zeros_like(output.logits)
            for output in outputs
        ]
    )
    return _alike(extra, [output.logits for output in outputs])


def _alike(values: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """The values, which have gradients if outputs have, also if no node has any here: else another program is compiled.

    Args:
        values: Stacked of outputs, or all zeros.
        outputs: Of the nodes.
    """
    return values.requires_grad_() if any(output.requires_grad for output in outputs) else values
