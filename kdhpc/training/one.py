"""ONE, a baseline, in the same loop: its branches are the nodes, its gate's output is the ensemble."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from kdhpc.config.schema import DeviceConfig, NetworkConfig, TrainingConfig
from kdhpc.losses.coefficients import other_weight
from kdhpc.losses.one import ramp_up
from kdhpc.networks.one import OneNetwork, OneOutput, build_one
from kdhpc.training.auto_mode import AutoMode
from kdhpc.training.batches import EvalSource, ImageBatch, TrainSource
from kdhpc.training.device import resolve_device
from kdhpc.training.evaluation import Prediction
from kdhpc.training.learner import Moment
from kdhpc.training.loop import TrainingLoop
from kdhpc.training.programs import Programs, programs_for
from kdhpc.training.single import SingleLearner
from kdhpc.training.varying import overwritten


class OneLearner(SingleLearner[OneNetwork]):
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
        super().__init__(
            lambda: build_one(network, num_branches=num_branches, num_classes=num_classes),
            training=training,
            device=device,
            target=target,
            programs=programs,
            seed=seed,
        )
        self._ramp = torch.zeros((), device=target)

    def set_moment(self, moment: Moment) -> None:
        """Tell the next `learn` where it stands."""
        super().set_moment(moment)
        self._ramp.fill_(ramp_up(moment.epoch))

    @contextmanager
    def varied(self) -> Iterator[None]:
        """See `Learner.varied`."""
        with super().varied(), overwritten((self._ramp, other_weight(self._ramp))):
            yield

    def _loss(self, batch: ImageBatch) -> Tensor:
        return self._programs.one_loss(*self._answer(batch.images), batch.labels, self._ramp)

    def _predict(self, images: Tensor) -> Prediction:
        """The branches are the nodes, the gated ensemble is the ensemble."""
        output = self._answer(images)
        return Prediction(output.branch_logits_BNC.float(), output.ensemble_logits_NC.float())

    def _answer(self, images: Tensor) -> OneOutput:
        with self._precision():
            return self._programs.one(self.network, images)


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
        auto: Chooses the mode before the first step; none: ``device.mode`` says it.

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
        auto: AutoMode | None = None,
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
        super().__init__(learner=learner, training=training, train=train, evaluation=evaluation, seed=seed, auto=auto)
