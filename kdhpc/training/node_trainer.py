"""A network with all that moves while it learns: weights, statistics, momentum, loss scale."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from kdhpc.config.schema import TrainingConfig
from kdhpc.errors import CheckpointError
from kdhpc.training.optimizer import optimizer_of

NetworkT = TypeVar("NetworkT", bound=nn.Module)


class Remembered(str, Enum):
    """A tensor that an optimiser keeps beside each weight, by torch's names."""

    MOMENTUM = "momentum_buffer"
    """SGD's, of the weight's shape."""
    MEAN = "exp_avg"
    """AdamW's running mean of the gradients, of the weight's shape."""
    MEAN_SQUARE = "exp_avg_sq"
    """AdamW's running mean of their squares, of the weight's shape."""
    STEPS = "step"
    """AdamW's number of updates of the weight, float32 scalar."""


def remembered_kind(name: str) -> Remembered:
    """Which it is, by a name in `NodeState.momentum`; SGD's momentum has the weight's own."""
    part, slash, _ = name.partition("/")
    return Remembered(part) if slash else Remembered.MOMENTUM


@dataclass(frozen=True, kw_only=True)
class NodeState:
    """A node at the end of a step, on the CPU."""

    tensors: dict[str, Tensor]
    """Weights and batch-norm statistics, by the network's own names."""
    momentum: dict[str, Tensor]
    """What the optimiser remembers of earlier steps. SGD's momentum, by the weights' names; empty without momentum.
    AdamW's means, and the steps that they are of, as ``PART/NAME`` with a `Remembered` for the part."""
    loss_scale: dict[str, float]
    """The fp16 loss scaler; empty where there is none."""


class NodeTrainer(Generic[NetworkT]):
    """Trains one network: its optimiser, and in fp16 its own loss scaler, so that no node's overflow reaches another.

    Args:
        network: Already where it will run.
        config: Of the optimiser.
        groups: All of its weights by name, in the groups that an update can leave out; None: a single group.
        scale_loss: fp16: gradients are computed of a scaled loss, and overflows skip a step. The scale, and the number
            of steps since it changed, are tensors on the device that never move: a recorded step can use them.
        capturable: Steps may be recorded.
    """

    def __init__(
        self,
        network: NetworkT,
        config: TrainingConfig,
        *,
        groups: Sequence[Sequence[str]] | None = None,
        scale_loss: bool,
        capturable: bool = False,
    ) -> None:
        self.network = network
        self._optimizer = optimizer_of(network, config, groups=groups, capturable=capturable)
        device_type = next(network.parameters()).device.type
        self._scaler = torch.amp.GradScaler(device_type) if scale_loss else None
        self._first_scale = {} if self._scaler is None else dict(self._scaler.state_dict())

    def loss_to_differentiate(self, loss: Tensor) -> Tensor:
        """The loss, scaled in fp16."""
        if self._scaler is None:
            return loss
        scaled: Tensor = self._scaler.scale(loss)
        return scaled

    def set_learning_rate(self, rate: float) -> None:
        """Of the next updates."""
        self._optimizer.set_learning_rate(rate)

    @contextmanager
    def varied(self) -> Iterator[None]:
        """Another learning rate: so much smaller that an update by the usual one would be far too large."""
        rate = self._optimizer.learning_rate
        self.set_learning_rate(rate / 8)
        try:
            yield
        finally:
            self.set_learning_rate(rate)

    def update(self, skip: Tensor) -> None:
        """One optimiser step from the gradients that lie there.

        Args:
            skip: float32, (groups,) or a scalar for all of them: 1 leaves a group as it is, its weights and what is
                remembered of them.
        """
        self._optimizer.skip = skip
        if self._scaler is None:
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)
            self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def is_finite(self) -> Tensor:
        """Whether all that moves is, a bool scalar on the device: the host does not wait for it."""
        moving = (*self.network.state_dict().values(), *self._momentum().values())
        largest: Tensor = get_total_norm([tensor for tensor in moving if tensor.is_floating_point()], math.inf)
        return largest.isfinite()

    def state(self) -> NodeState:
        """A copy, on the CPU."""
        return NodeState(
            tensors=_on_cpu(self.network.state_dict()),
            momentum=_on_cpu(self._momentum()),
            loss_scale={} if self._scaler is None else dict(self._scaler.state_dict()),
        )

    def check(self, state: NodeState) -> None:
        """Refuse a state of another network or optimiser, before anything is overwritten.

        Raises:
            CheckpointError: with the first tensor that differs.
        """
        _same_shapes("network", state.tensors, self.network.state_dict())
        _same_shapes("momentum", state.momentum, self._momentum())
        known = set() if self._scaler is None else self._scaler.state_dict().keys()
        if state.loss_scale and known and state.loss_scale.keys() != known:
            raise CheckpointError(f"the checkpoint has {sorted(state.loss_scale)} of a loss scale, not {sorted(known)}")
        if bool(state.loss_scale) != (self._scaler is not None):
            raise CheckpointError(
                "the checkpoint and device.precision do not agree on whether the loss is scaled (fp16)"
            )

    def restart(self, weights: Mapping[str, Tensor]) -> None:
        """Begin anew in the same memory, as a new trainer of a network with these weights and statistics would.

        Args:
            weights: By the network's names, on any device.
        """
        self._optimizer.zero_grad(set_to_none=True)
        self.network.requires_grad_(True).train()
        self.network.load_state_dict(weights)
        for momentum in self._momentum().values():
            momentum.zero_()
        if self._scaler is not None:
            self._scaler.load_state_dict(self._first_scale)

    def restore(self, state: NodeState) -> None:
        """Become that state, in the same memory. Call `check` first."""
        self._optimizer.zero_grad(set_to_none=True)
        self.network.load_state_dict(state.tensors)
        with torch.no_grad():
            for name, momentum in self._momentum().items():
                momentum.copy_(state.momentum[name])
        if self._scaler is not None:
            self._scaler.load_state_dict(state.loss_scale)

    def _momentum(self) -> dict[str, Tensor]:
        return {
            name if kind is Remembered.MOMENTUM else f"{kind.value}/{name}": self._optimizer.state[parameter][
                kind.value
            ]
            for name, parameter in self.network.named_parameters()
            for kind in Remembered
            if kind.value in self._optimizer.state[parameter]
        }


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _described(tensor: Tensor) -> str:
    dtype = "" if tensor.dtype is torch.float32 else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{tuple(tensor.shape)}{dtype}"


def _same_shapes(what: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name in sorted(found.keys() | expected.keys()):
        shapes = [_described(tensors[name]) if name in tensors else "nothing" for tensors in (found, expected)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"the checkpoint has {shapes[0]} for {what} tensor {name!r}, this training has {shapes[1]}: "
                "it was written with another network"
            )
