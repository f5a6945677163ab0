"""A learner of one network with one loss: what the baselines have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic

import torch
from torch import Tensor

from kdhpc.config.schema import DeviceConfig, TrainingConfig
from kdhpc.errors import CheckpointError
from kdhpc.training.batches import EvalSource, ImageBatch
from kdhpc.training.counters import BatchCounters
from kdhpc.training.device import enforce_precision
from kdhpc.training.ensemble import build_seeded
from kdhpc.training.evaluation import Accuracies, NotFinite, Prediction, top1_accuracies
from kdhpc.training.learner import Moment
from kdhpc.training.node import NetworkT, Node, NodeState
from kdhpc.training.programs import Programs
from kdhpc.training.schedule import learning_rate


class SingleLearner(ABC, Generic[NetworkT]):
    """One network; its loss and its answers are the subclass's.

    Args:
        build: Makes the network, from torch's global random state.
        training: Optimiser and schedule.
        device: Precision and memory format.
        target: Where it runs.
        programs: What computes the step.
        seed: Initial weights follow from it.
    """

    def __init__(
        self,
        build: Callable[[], NetworkT],
        *,
        training: TrainingConfig,
        device: DeviceConfig,
        target: torch.device,
        programs: Programs,
        seed: int,
    ) -> None:
        self._training = training
        self._programs = programs
        self._target = target
        self._autocast = enforce_precision(device, target)
        network = build_seeded(build, seed=seed, node=0, target=target, channels_last=device.channels_last)
        self._counters = BatchCounters([network])
        self._node = Node(network, training, scale_loss=self.scales_loss, capturable=programs.records)

    @abstractmethod
    def _loss(self, batch: ImageBatch) -> Tensor:
        """A scalar, with its gradients."""

    @abstractmethod
    def _predict(self, images: Tensor) -> Prediction:
        """The answers in evaluation mode."""

    @property
    def num_losses(self) -> int:
        """One."""
        return 1

    @property
    def network(self) -> NetworkT:
        """What learns."""
        return self._node.network

    @property
    def networks(self) -> tuple[NetworkT, ...]:
        """What learns."""
        return (self._node.network,)

    @property
    def programs(self) -> Programs:
        """What computes a step."""
        return self._programs

    def use(self, programs: Programs) -> None:
        """Compute steps by these from now on."""
        self._programs = programs

    @property
    def structure(self) -> Hashable:
        """All steps are alike."""
        return None

    def set_moment(self, moment: Moment) -> None:
        """Tell the next `learn` where it stands."""
        self._node.set_learning_rate(learning_rate(self._training, moment.epoch))

    @contextmanager
    def varied(self) -> Iterator[None]:
        """See `Learner.varied`."""
        with self._node.varied():
            yield

    def learn(self, batch: ImageBatch) -> Tensor:
        """Learn the batch. Returns the loss before the update, (1,), detached. Nothing waits for the host."""
        loss = self._loss(batch)
        torch.autograd.backward([self._node.loss_to_differentiate(loss)])
        self._node.update((loss.detach() == 0).float())
        self._counters.count()
        return loss.detach().unsqueeze(0)

    def evaluate(self, source: EvalSource) -> Accuracies | NotFinite:
        """Top-1 accuracies of the answers."""
        self.network.eval()
        accuracies = top1_accuracies(self._predict, source)
        self.network.train()
        return accuracies

    @property
    def scales_loss(self) -> bool:
        """fp16."""
        return self._autocast is torch.float16

    def are_finite(self) -> Tensor:
        """Whether all weights, statistics and momenta are, (1,), bool, on the device."""
        return self._node.is_finite().unsqueeze(0)

    def state(self) -> tuple[NodeState, ...]:
        """A copy of all that moves, on the CPU."""
        return (self._node.state(),)

    def restore(self, states: tuple[NodeState, ...]) -> None:
        """Become that state.

        Raises:
            CheckpointError: it is of another learner; nothing has changed.
        """
        if len(states) != 1:
            raise CheckpointError(f"the checkpoint holds {len(states)} networks, this training has a single one")
        self._node.check(states[0])
        self._node.restore(states[0])

    def _precision(self) -> torch.autocast:
        """What a network is called under."""
        return torch.autocast(self._target.type, self._autocast, enabled=self._autocast is not None)
