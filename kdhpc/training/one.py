"""ONE, a baseline, in the same loop: its branches are the nodes, its gate's output is the ensemble."""

from collections.abc import Hashable

import torch
from torch import Tensor

from kdhpc.config.schema import DeviceConfig, NetworkConfig, TrainingConfig
from kdhpc.errors import CheckpointError
from kdhpc.losses.one import ramp_up
from kdhpc.networks.one import OneNetwork, build_one
from kdhpc.training.batches import EvalSource, ImageBatch, TrainSource
from kdhpc.training.device import autocast_dtype, resolve_device
from kdhpc.training.ensemble import build_seeded
from kdhpc.training.evaluation import Accuracies, Prediction, top1_accuracies
from kdhpc.training.learner import Moment
from kdhpc.training.loop import TrainingLoop
from kdhpc.training.node import Node, NodeState
from kdhpc.training.programs import Programs, programs_for
from kdhpc.training.schedule import learning_rate


class OneLearner:
    """One branched network under the objective of ONE.

    Args:
        network: What is branched.
        num_branches: B.
        training: Optimiser and schedule.
        device: Precision and memory format.
        target: Where it runs.
        programs: What computes the step.
        num_classes: C.
        seed: Initial weights follow from it.
    """

    def __init__(
        self,
        *,
        network: NetworkConfig,
        num_branches: int,
        training: TrainingConfig,
        device: DeviceConfig,
        target: torch.device,
        programs: Programs,
        num_classes: int,
        seed: int,
    ) -> None:
        self._training = training
        self._programs = programs
        self._target = target
        self._autocast = autocast_dtype(device, target)
        built = build_seeded(
            lambda: build_one(network, num_branches=num_branches, num_classes=num_classes),
            seed=seed,
            node=0,
            target=target,
            channels_last=device.channels_last,
        )
        self._node = Node(built, training, scale_loss=self._autocast is torch.float16, capturable=programs.records)
        self._ramp = torch.zeros((), device=target)

    @property
    def num_losses(self) -> int:
        """One: the objective is of the network as a whole."""
        return 1

    @property
    def networks(self) -> tuple[OneNetwork, ...]:
        """The one network."""
        return (self._node.network,)

    @property
    def programs(self) -> Programs:
        """What computes a step."""
        return self._programs

    @property
    def structure(self) -> Hashable:
        """All steps are alike."""
        return None

    def set_moment(self, moment: Moment) -> None:
        """Tell the next `learn` where it stands."""
        self._ramp.fill_(ramp_up(moment.epoch))
        self._node.set_learning_rate(learning_rate(self._training, moment.epoch))

    def learn(self, batch: ImageBatch) -> Tensor:
        """Learn the batch. Returns the loss before the update, (1,), detached. Nothing waits for the host."""
        with torch.autocast(self._target.type, self._autocast, enabled=self._autocast is not None):
            output = self._programs.one(self._node.network, batch.images)
        loss = self._programs.one_loss(*output, batch.labels, self._ramp)
        torch.autograd.backward([self._node.loss_to_differentiate(loss)])
        self._node.update((loss.detach() == 0).float())
        return loss.detach().unsqueeze(0)

    def evaluate(self, source: EvalSource) -> Accuracies:
        """Top-1 accuracies of the branches and of the gated ensemble."""
        self._node.network.eval()
        accuracies = top1_accuracies(self._predict, source)
        self._node.network.train()
        return accuracies

    def state(self) -> tuple[NodeState, ...]:
        """A copy of all that moves, on the CPU."""
        return (self._node.state(),)

    def restore(self, states: tuple[NodeState, ...]) -> None:
        """Become that state.

        Raises:
            CheckpointError: it is of another learner; nothing has changed.
        """
        if len(states) != 1:
            raise CheckpointError(f"the checkpoint holds {len(states)} networks, ONE is a single one")
        self._node.check(states[0])
        self._node.restore(states[0])

    def _predict(self, images: Tensor) -> Prediction:
        with torch.autocast(self._target.type, self._autocast, enabled=self._autocast is not None):
            output = self._programs.one(self._node.network, images)
        return Prediction(output.branch_logits_BNC.float(), output.ensemble_logits_NC.float())


class OneTraining(TrainingLoop):
    """Trains a ONE network.

    Args:
        network: What is branched.
        num_branches: B.
        training: Optimiser and schedule.
        device: Where and how.
        train: Batches to learn from.
        evaluation: Images to score on.
        num_classes: C.
        seed: Initial weights, data order and augmentation follow from it.

    Raises:
        ConfigError: the device is not there, or the precision does not fit it.
        NetworkError: the network cannot be built.
    """

    def __init__(
        self,
        *,
        network: NetworkConfig,
        num_branches: int,
        training: TrainingConfig,
        device: DeviceConfig,
        train: TrainSource,
        evaluation: EvalSource,
        num_classes: int,
        seed: int,
    ) -> None:
        target = resolve_device(device)
        learner = OneLearner(
            network=network,
            num_branches=num_branches,
            training=training,
            device=device,
            target=target,
            programs=programs_for(device, target),
            num_classes=num_classes,
            seed=seed,
        )
        super().__init__(learner=learner, training=training, train=train, evaluation=evaluation, seed=seed)
