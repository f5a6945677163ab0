"""Counting the batches that batch norms have seen, for all layers of all networks at once.

Every batch norm of torch has a counter, ``num_batches_tracked``, which it advances by itself: one kernel a layer, and
nothing that we compute depends on it. It is part of a network's state all the same, in checkpoints and in exported
weights. So the counters of all layers become views of one tensor, the layers leave them alone, and a learner advances
all of them in one kernel a step.
"""

from collections.abc import Collection, Sequence
from typing import Any, SupportsIndex

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _UncountedBatchNorm1d(nn.BatchNorm1d):
    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return _as_torchs_own(super().__reduce_ex__(protocol))

    def forward(self, input: Tensor) -> Tensor:
        return _normalised(self, input)


class _UncountedBatchNorm2d(nn.BatchNorm2d):
    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return _as_torchs_own(super().__reduce_ex__(protocol))

    def forward(self, input: Tensor) -> Tensor:
        return _normalised(self, input)


_UNCOUNTED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _UncountedBatchNorm1d,
    nn.BatchNorm2d: _UncountedBatchNorm2d,
}


class BatchCounters:
    """Takes over the counters of networks.

    Args:
        networks: Already where they will run. Batch norms without a momentum, whose statistics depend on the
            counter, go on counting by themselves.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        layers = [[part for part in network.modules() if _can_be_counted(part)] for network in networks]
        device = next(networks[0].parameters()).device
        self._counters_ML = torch.zeros(len(layers), max(map(len, layers)), dtype=torch.int64, device=device)
        self._learning_M1 = torch.ones(len(layers), 1, dtype=torch.int64, device=device)
        for counters_L, parts in zip(self._counters_ML, layers, strict=True):
            for counter, part in zip(counters_L, parts, strict=False):  # Others may have more layers.
                part.__class__ = _UNCOUNTED[type(part)]
                part.num_batches_tracked = counter.copy_(part.num_batches_tracked)

    def freeze(self, frozen: Collection[int]) -> None:
        """Leave the counters of these networks (0-based), and of no others, as they are."""
        learning = [[int(index not in frozen)] for index in range(len(self._learning_M1))]
        self._learning_M1.copy_(torch.tensor(learning))

    def count(self) -> None:
        """One batch more."""
        self._counters_ML.add_(self._learning_M1)


def _can_be_counted(part: nn.Module) -> bool:
    """Whether it is a batch norm of torch's none of whose statistics depend on its counter."""
    return type(part) in _UNCOUNTED and part.momentum is not None and part.num_batches_tracked is not None


def _as_torchs_own(reduced: Any) -> Any:
    """A copy counts by itself again: nobody else does it for a copy."""
    function, (kind, *arguments), *rest = reduced
    return function, (kind.__base__, *arguments), *rest


def _normalised(layer: nn.BatchNorm1d | nn.BatchNorm2d, values: Tensor) -> Tensor:
    """What torch's layer does, but for its counter."""
    assert layer.momentum is not None, "statistics that are plain means need the counter"
    return F.batch_norm(
        values,
        layer.running_mean,
        layer.running_var,
        layer.weight,
        layer.bias,
        layer.training,
        layer.momentum,
        layer.eps,
    )
