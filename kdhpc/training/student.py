"""A single network that learns from an ensemble that was trained before, in the same loop: paper section 5.5."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdhpc.config.schema import DeviceConfig, NetworkConfig, TrainingConfig
from kdhpc.networks.build import Network, build_network
from kdhpc.networks.output import NetworkOutput
from kdhpc.training.auto_mode import AutoMode
from kdhpc.training.batches import EvalSource, ImageBatch, TrainSource
from kdhpc.training.device import resolve_device
from kdhpc.training.ensemble import build_seeded
from kdhpc.training.evaluation import Prediction, mean_ensemble
from kdhpc.training.loop import TrainingLoop
from kdhpc.training.pretrained import freeze_with
from kdhpc.training.programs import Programs, programs_for
from kdhpc.training.single import SingleLearner


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


class StudentLearner(SingleLearner[Network]):
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
        super().__init__(
            lambda: build_network(network, num_classes=num_classes, image_size=image_size),
            training=training,
            device=device,
            target=target,
            programs=programs,
            seed=seed,
        )
        self._temperature = temperature
        self._teachers = tuple(
            build_seeded(
                lambda: build_network(teacher.network, num_classes=num_classes, image_size=teacher.image_size),
                seed=seed,
                node=node,
                target=target,
                channels_last=device.channels_last,
            )
            for node in range(len(teacher.nodes))
        )
        for frozen, weights in zip(self._teachers, teacher.nodes, strict=True):
            freeze_with(frozen, weights, origin=teacher.origin)

    @property
    def teachers(self) -> tuple[Network, ...]:
        """The nodes of the teacher, which nothing moves: they are no part of the state."""
        return self._teachers

    def _loss(self, batch: ImageBatch) -> Tensor:
        with torch.no_grad():
            teacher_logits_NC = self._mean_logits(self._teachers, batch.images).ensemble_logits_NC
        output = self._answer(self.network, batch.images)
        return self._programs.student_loss(
            output.logits, output.extra_hard_logits, teacher_logits_NC, batch.labels, self._temperature
        )

    def _predict(self, images: Tensor) -> Prediction:
        """The student is its own ensemble."""
        return self._mean_logits(self.networks, images)

    def _mean_logits(self, networks: tuple[Network, ...], images: Tensor) -> Prediction:
        return mean_ensemble(torch.stack([self._answer(network, images).logits for network in networks]))

    def _answer(self, network: Network, images: Tensor) -> NetworkOutput:
        with self._precision():
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
        auto: Chooses the mode before the first step; none: ``device.mode`` says it.

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
        auto: AutoMode | None = None,
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
        super().__init__(learner=learner, training=training, train=train, evaluation=evaluation, seed=seed, auto=auto)
