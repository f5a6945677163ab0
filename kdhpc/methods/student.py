"""A student: a single network that learns from a run that was trained before. Source: paper section 5.5.

Dimension suffixes: N samples, C classes.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from kdhpc.config.document import to_document
from kdhpc.config.schema import TrainConfig
from kdhpc.errors import ConfigError, NetworkError
from kdhpc.losses.student import student_loss
from kdhpc.methods.differences import IMAGES, differences, facts_of
from kdhpc.methods.method import Method, OpenRun, TrainedRun, refuse_unlearned
from kdhpc.methods.one_node import one_node
from kdhpc.networks.build import Network, named_for
from kdhpc.networks.own import refuse_named_code
from kdhpc.networks.pretrained import check_weights
from kdhpc.networks.started import build_started
from kdhpc.training.batches import ImageBatch
from kdhpc.training.evaluation import Prediction, mean_ensemble
from kdhpc.training.model import Model, build_seeded, run_network
from kdhpc.training.pretrained import freeze_with
from kdhpc.training.setting import TrainingSetting

_LOG = logging.getLogger(__name__)
_CLASSIFIERS = ("head.fc.bias", "heads.0.fc.bias")
"""A tensor of the length C: of the network of a node, and of ONE."""


@dataclass(frozen=True, kw_only=True)
class StudentMethod(Method):
    """One network that learns the labels, and the logits of a run's ensemble, or of one of its nodes."""

    run: TrainedRun
    """What teaches: a run, or a node as a run of its own."""
    weights_digest: str
    """Names the content of its weights."""
    temperature: float
    """T of the distillation."""
    distillation_weight: float | None = None
    """How much the distillation counts, and the labels the rest; None: the sum of both."""
    teacher_node: int | None = None
    """The node that teaches, from 1; None: the ensemble does."""

    title: ClassVar[str] = "a student"

    @classmethod
    def from_config(cls, config: TrainConfig, open_run: OpenRun) -> "StudentMethod":
        """``run.graph=student``.

        Raises:
            ConfigError: no teacher, one that is not done or cannot teach, or an option that has no meaning.
            DataError: the teacher's result cannot be read.
            NetworkError: the teacher's weights are not there.
        """
        run = config.run
        if run.teacher is None:
            raise ConfigError("run.graph=student needs a teacher: give --teacher runs/train/NAME/seed<k> (run.teacher)")
        if run.num_nodes not in (None, 1):
            raise ConfigError(
                f"run.num_nodes={run.num_nodes} has no meaning for run.graph=student, one network: leave it out"
            )
        refuse_unlearned(config, "which learns")
        teacher = open_run(Path(run.teacher), origin=f"run.teacher={Path(run.teacher)}")
        if teacher.method.no_teacher is not None:
            raise ConfigError(
                f"{teacher.origin} is a run of {teacher.method.title}, {teacher.method.no_teacher}: give a run of a "
                "graph, whose nodes' mean does"
            )
        for name in set(teacher.config.network.distinct) - set(config.network.distinct):
            refuse_named_code(
                name,
                origin=teacher.origin,
                remedy="give the student this network, or train it in Python after kdhpc.load(teacher, network=...)",
            )
        if run.teacher_node is not None:
            teacher = one_node(teacher, run.teacher_node)
        return cls(
            run=teacher,
            weights_digest=teacher.weights_digest(),
            temperature=run.temperature,
            distillation_weight=run.distillation_weight,
            teacher_node=run.teacher_node,
        )

    @property
    def teacher(self) -> TrainedRun:
        """The run that teaches it."""
        return self.run

    @property
    def num_nodes(self) -> int:
        """The student is its own ensemble."""
        return 1

    @property
    def label(self) -> str:
        """Names its teacher."""
        return f"student-of-{self.teacher.label}"

    @property
    def key(self) -> str:
        """Its teacher counts among the settings."""
        return "student"

    @property
    def settings(self) -> Mapping[str, object]:
        """What the teacher's predictions depend on, and how they are taught."""
        network = to_document(self.teacher.config.network)
        # Later keys stand there only if they say something: digests stay what they were.
        later = {"run.distillation_weight": self.distillation_weight, "run.teacher_node": self.teacher_node}
        return {
            **{key: value for key, value in later.items() if value is not None},
            "run.temperature": self.temperature,
            "teacher.weights": self.weights_digest,
            "teacher.network": network["name"],
            "teacher.residual_attention": network["residual_attention"],
        }

    def check(self, num_classes: int) -> None:
        """Refuse a teacher that cannot teach so many classes.

        Raises:
            NetworkError: it tells others apart, or its weights are damaged or not its network's.
        """
        teacher = self._read_teacher(num_classes)
        for index, weights in enumerate(teacher.weights):
            with torch.device("meta"):
                shapes = teacher.build(index)
            found = named_for(shapes, weights)
            for biases in (found[name] for name in _CLASSIFIERS if name in found):
                if len(biases) != num_classes:
                    raise NetworkError(
                        f"{teacher.origin} tells {len(biases)} classes of {self.teacher.config.dataset.name} apart, "
                        f"this data set has {num_classes}: give a teacher that was trained with the same classes"
                    )
            check_weights(shapes, weights, origin=teacher.origin)

    def warn_about(self, config: TrainConfig, dataset_checksum: str) -> None:
        """Log that the teacher was trained with other images."""
        here = facts_of(config, dataset_checksum)
        there = facts_of(self.teacher.config, self.teacher.dataset_checksum)
        images = [key for key in here if key.startswith("config.dataset.") and key != "config.dataset.name"]
        if said := differences(there, here, (*IMAGES, *images, "config.run.split")):
            _LOG.warning(
                "the teacher %s was trained with %s; its student is trained with %s", config.run.teacher, *said
            )

    def model(self, setting: TrainingSetting, seed: int) -> "StudentModel":
        """The student, and its teacher's networks with their weights."""
        teacher = self._read_teacher(setting.num_classes)
        return StudentModel(teacher, self.temperature, setting, seed, distillation_weight=self.distillation_weight)

    def _read_teacher(self, num_classes: int) -> "TeacherWeights":
        return TeacherWeights(
            build=lambda index: self.teacher.teaching_network(index, num_classes),
            weights=tuple(self.teacher.read_weights(index) for index in range(len(self.teacher.weights))),
            origin=self.teacher.origin,
        )


@dataclass(frozen=True, kw_only=True)
class TeacherWeights:
    """An ensemble that is trained already: the mean of the logits of its networks."""

    build: Callable[[int], nn.Module]
    """Makes a network, by its number from 0, which gives `NetworkOutput`."""
    weights: tuple[dict[str, Tensor], ...]
    """Weights and batch-norm statistics of each network, by its names."""
    origin: str
    """What messages call it."""


class StudentModel(Model[Network]):
    """One network that learns the labels and the mean logits of frozen networks, of the same augmented batch.

    Args:
        teacher: What teaches it: in evaluation mode, without gradients, in the student's precision.
        temperature: T of the distillation.
        setting: The student's network, and what it is trained with.
        seed: The student's initial weights follow from it.
        distillation_weight: As for `student_loss`.

    Raises:
        NetworkError: the student cannot be built, or the teacher's weights are another network's.
    """

    def __init__(
        self,
        teacher: TeacherWeights,
        temperature: float,
        setting: TrainingSetting,
        seed: int,
        *,
        distillation_weight: float | None = None,
    ) -> None:
        super().__init__(
            lambda _: build_started(setting.network, num_classes=setting.num_classes, image_size=setting.image_size),
            num_networks=1,
            setting=setting,
            seed=seed,
        )
        self._temperature = temperature
        self._distillation_weight = distillation_weight
        self._label_smoothing = setting.training.label_smoothing
        self.teachers = tuple(
            build_seeded(teacher.build, seed=seed, node=index, runtime=setting.runtime)
            for index in range(len(teacher.weights))
        )
        """The networks of the teacher, which nothing moves: they are no part of the state."""
        for frozen, weights in zip(self.teachers, teacher.weights, strict=True):
            freeze_with(frozen, weights, origin=teacher.origin)

    def losses(self, batch: ImageBatch) -> Tensor:
        """`kdhpc.losses.student.student_loss`, (1,)."""
        with torch.no_grad():
            teacher_logits_NC = self._mean_logits(self.teachers, batch.images).ensemble_logits_NC
        output = self.forward(run_network, self.networks[0], batch.images)
        return self.run(
            student_loss,
            output.logits,
            output.extra_hard_logits,
            teacher_logits_NC,
            batch.labels,
            self._temperature,
            self._distillation_weight,
            self._label_smoothing,
        ).unsqueeze(0)

    def predict(self, images: Tensor) -> Prediction:
        """The student is its own ensemble."""
        return self._mean_logits(self.networks, images)

    def _mean_logits(self, networks: Sequence[nn.Module], images: Tensor) -> Prediction:
        return mean_ensemble(torch.stack([self.forward(run_network, network, images).logits for network in networks]))
