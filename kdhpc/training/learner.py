"""What the training loop asks of something that learns: an ensemble under a graph, or a baseline."""

from collections.abc import Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from kdhpc.training.batches import EvalSource, ImageBatch
from kdhpc.training.evaluation import Accuracies, NotFinite
from kdhpc.training.node import NodeState
from kdhpc.training.programs import Programs


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where in the full schedule a step stands."""

    epoch: int
    """1-based."""
    step: int
    """k, 1-based over all epochs."""
    num_steps: int
    """k_end: steps of the full schedule, also for a trial that will be pruned."""


class Learner(Protocol):
    """Learns a batch at a time."""

    @property
    def num_losses(self) -> int:
        """Losses that a step returns."""
        ...

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """What learns: the nodes' networks, or a baseline's single one."""
        ...

    @property
    def programs(self) -> Programs:
        """What computes a step."""
        ...

    def use(self, programs: Programs) -> None:
        """Compute steps by these from now on; none of them, or all, are recorded."""
        ...

    @property
    def structure(self) -> Hashable:
        """What of a step is no value of a tensor: steps of the same structure launch the same work."""
        ...

    def set_moment(self, moment: Moment) -> None:
        """Tell the next `learn` where it stands."""
        ...

    def varied(self) -> AbstractContextManager[None]:
        """Within it, all that a step reads beside its batch and the state has other values: rate, ramp, graph.

        They are so different that a step which still uses the usual values of any of them comes to other results.
        """
        ...

    def learn(self, batch: ImageBatch) -> Tensor:
        """Learn the batch. Returns the losses before the update, (num_losses,), on the device, detached.

        Nothing waits for the host, and all tensors that outlast the step stay where they are.
        """
        ...

    def evaluate(self, source: EvalSource) -> Accuracies | NotFinite:
        """Top-1 accuracies in evaluation mode, if all logits are finite."""
        ...

    @property
    def scales_loss(self) -> bool:
        """Whether the loss is scaled (fp16), so that a step may overflow and is left out then."""
        ...

    def are_finite(self) -> Tensor:
        """Whether all weights, statistics and momenta of each network are, (networks,), bool, on the device."""
        ...

    def state(self) -> tuple[NodeState, ...]:
        """A copy of all that moves, on the CPU."""
        ...

    def restore(self, states: tuple[NodeState, ...]) -> None:
        """Become that state.

        Raises:
            CheckpointError: it is of another learner; nothing has changed.
        """
        ...
