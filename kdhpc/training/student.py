"""A single network that learns from an ensemble that was trained before, in the same loop: paper section 5.5."""

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from kdhpc.config.schema import DeviceConfig, NetworkConfig, TrainingConfig
from kdhpc.errors import CheckpointError
from kdhpc.networks.build import Network, build_network
from kdhpc.networks.output import NetworkOutput
from kdhpc.training.batches import EvalSource, ImageBatch, TrainSource
from kdhpc.training.device import autocast_dtype, resolve_device
from kdhpc.training.ensemble import build_seeded
from kdhpc.training.evaluation import Accuracies, Prediction, mean_ensemble, top1_accuracies
from kdhpc.training.learner import Moment
from kdhpc.training.loop import TrainingLoop
from kdhpc.training.node import Node, NodeState
from kdhpc.training.pretrained import freeze_with
from kdhpc.training.programs import Programs, programs_for
from kdhpc.training.schedule import learning_rate


@dataclass(frozen=True, kw_only=True)
class TeacherWeights:
    """An ensemble that is trained already."""

    network: NetworkConfig
    """Of every node."""
    image_size: int
    """That it was trained with, in pixels; it also takes others."""
    nodes: tuple[dict[str, Tensor], ...]
    """Weights and batch-norm statistics of each node, by the network's names."""
    origin: str
    """What messages call it."""


class StudentLearner:
    """One network that learns the labels and the mean logits of frozen teachers, of the same augmented batch.

    Args:
        network: Of the student.
        teacher: What teaches it: in evaluation mode, without gradients, in the student's precision.
        temperature: T of the distillation.
        training: Optimiser and schedule.
        device: Precision and memory format.
        target: Where it runs.
        programs: What computes the step.
        num_classes: C.
        image_size: Side of the images, in pixels.
        seed: The student's initial weights follow from it.

    Raises:
        NetworkError: the student cannot be built, or the teacher's weights are another network's.
    """

    def __init__(
        self,
        *,
        network: NetworkConfig,
        teacher: TeacherWeights,
        temperature: float,
        training: TrainingConfig,
        device: DeviceConfig,
        target: torch.device,
        programs: Programs,
        num_classes: int,
        image_size: int,
        seed: int,
    ) -> None:
        self._training = training
        self._programs = programs
        self._target = target
        self._autocast = autocast_dtype(device, target)
        self._temperature = temperature

        def build(config: NetworkConfig, image_size: int) -> Network:
            return build_seeded(
                lambda: build_network(config, num_classes=num_classes, image_size=image_size),
                seed=seed,
                node=0,
                target=target,
                channels_last=device.channels_last,
            )

        self._node = Node(
            build(network, image_size),
            training,
            scale_loss=self._autocast is torch.float16,
            capturable=programs.records,
        )
        self._teachers = tuple(build(teacher.network, teacher.image_size) for _ in teacher.nodes)
        for frozen, weights in zip(self._teachers, teacher.nodes, strict=True):
            freeze_with(frozen, weights, origin=teacher.origin)

    @property
    def num_losses(self) -> int:
        """One: the student's."""
        return 1

    @property
    def networks(self) -> tuple[Network, ...]:
        """The student."""
        return (self._node.network,)

    @property
    def teachers(self) -> tuple[Network, ...]:
        """The nodes of the teacher, which nothing moves: they are no part of the state."""
        return self._teachers

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
        self._node.set_learning_rate(learning_rate(self._training, moment.epoch))

    def learn(self, batch: ImageBatch) -> Tensor:
        """Learn the batch. Returns the loss before the update, (1,), detached. Nothing waits for the host."""
        with torch.no_grad():
            teacher_logits_NC = self._mean_logits(self._teachers, batch.images).ensemble_logits_NC
        output = self._forward(self._node.network, batch.images)
        loss = self._programs.student_loss(
            output.logits, output.extra_hard_logits, teacher_logits_NC, batch.labels, self._temperature
        )
        torch.autograd.backward([self._node.loss_to_differentiate(loss)])
        self._node.update((loss.detach() == 0).float())
        return loss.detach().unsqueeze(0)

    def evaluate(self, source: EvalSource) -> Accuracies:
        """Top-1 accuracy of the student, who is its own ensemble."""
        self._node.network.eval()
        accuracies = top1_accuracies(lambda images: self._mean_logits(self.networks, images), source)
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
            raise CheckpointError(f"the checkpoint holds {len(states)} networks, a student is a single one")
        self._node.check(states[0])
        self._node.restore(states[0])

    def _mean_logits(self, networks: tuple[Network, ...], images: Tensor) -> Prediction:
        return mean_ensemble(torch.stack([self._forward(network, images).logits for network in networks]))

    def _forward(self, network: Network, images: Tensor) -> NetworkOutput:
        with torch.autocast(self._target.type, self._autocast, enabled=self._autocast is not None):
            return self._programs.network(network, images)


class StudentTraining(TrainingLoop):
    """Trains a student.

    Args:
        network: Of the student.
        teacher: What teaches it.
        temperature: T of the distillation.
        training: Optimiser and schedule.
        device: Where and how.
        train: Batches to learn from.
        evaluation: Images to score on.
        num_classes: C.
        seed: Initial weights, data order and augmentation follow from it.
        programs: What computes a step; none: what the device config means.

    Raises:
        ConfigError: the device is not there, or the precision does not fit it.
        NetworkError: the student cannot be built, or the teacher's weights are another network's.
    """

    def __init__(
        self,
        *,
        network: NetworkConfig,
        teacher: TeacherWeights,
        temperature: float,
        training: TrainingConfig,
        device: DeviceConfig,
        train: TrainSource,
        evaluation: EvalSource,
        num_classes: int,
        seed: int,
        programs: Programs | None = None,
    ) -> None:
        target = resolve_device(device)
        learner = StudentLearner(
            network=network,
            teacher=teacher,
            temperature=temperature,
            training=training,
            device=device,
            target=target,
            programs=programs or programs_for(device, target),
            num_classes=num_classes,
            image_size=train.image_size,
            seed=seed,
        )
        super().__init__(learner=learner, training=training, train=train, evaluation=evaluation, seed=seed)
