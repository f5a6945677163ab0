"""What the training loop asks of something that learns: an ensemble under a graph, or a baseline."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from kdhpc.training.batches import EvalSource, ImageBatch
from kdhpc.training.device import Mode
from kdhpc.training.evaluation import Accuracies
from kdhpc.training.node import NodeState


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
    def mode(self) -> Mode:
        """How its programs run."""
        ...

    def step(self, batch: ImageBatch, moment: Moment) -> Tensor:
        """Learn the batch. Returns the losses before the update, (num_losses,), on the device, detached."""
        ...

    def evaluate(self, source: EvalSource) -> Accuracies:
        """Top-1 accuracies in evaluation mode."""
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
