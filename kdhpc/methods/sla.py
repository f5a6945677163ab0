"""SLA with self-distillation, a baseline: one network that also tells rotations apart, and learns from itself.

Source: Lee et al., "Self-supervised label augmentation via input transformations", ICML 2020; the authors' code,
https://github.com/hankook/SLA, mode ``sla+sd``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kdhpc.config.schema import TrainConfig
from kdhpc.losses.sla import sla_loss
from kdhpc.methods.method import OpenRun
from kdhpc.methods.self_taught import SelfTaughtMethod, SelfTaughtModel, check_single
from kdhpc.networks.sla import NUM_ROTATIONS, SlaNetwork, SlaOutput, build_sla
from kdhpc.training.batches import ImageBatch
from kdhpc.training.setting import TrainingSetting


@dataclass(frozen=True, kw_only=True)
class SlaMethod(SelfTaughtMethod):
    """A network with a second head, which also tells by how much an image was rotated."""

    temperature: float
    """T of the distillation."""
    large_loss: bool
    """Whether the loss of the second head counts as often as there are rotations."""

    title: ClassVar[str] = "SLA"
    name: ClassVar[str] = "sla"

    @classmethod
    def from_config(cls, config: TrainConfig, open_run: OpenRun) -> "SlaMethod":
        """``run.graph=sla``.

        Raises:
            ConfigError: an option that has no meaning.
        """
        check_single(config)
        return cls(
            network=config.network,
            image_size=config.dataset.image_size,
            temperature=config.run.temperature,
            large_loss=config.run.large_loss,
        )

    @property
    def settings(self) -> Mapping[str, object]:
        """Temperature, and how much the second head counts."""
        return {"run.temperature": self.temperature, "run.large_loss": self.large_loss}

    def model(self, setting: TrainingSetting, seed: int) -> "SlaModel":
        """A network with a second head."""
        return SlaModel(self, setting, seed)


class SlaModel(SelfTaughtModel[SlaNetwork]):
    """One network with a second head, under the objective of SLA with self-distillation.

    Args:
        method: Its options.
        setting: The network, and what it is trained with. Each batch is rotated after its augmentation.
        seed: Initial weights follow from it.

    Raises:
        NetworkError: the network cannot be built, or is no plain residual network.
    """

    def __init__(self, method: SlaMethod, setting: TrainingSetting, seed: int) -> None:
        super().__init__(
            lambda _: build_sla(setting.network, num_classes=setting.num_classes, image_size=setting.image_size),
            num_networks=1,
            setting=setting,
            seed=seed,
        )
        self._temperature = method.temperature
        self._joint_weight = float(NUM_ROTATIONS) if method.large_loss else 1.0
        self._label_smoothing = setting.training.label_smoothing

    def losses(self, batch: ImageBatch) -> Tensor:
        """`kdhpc.losses.sla.sla_loss`, (1,)."""
        output = self.forward(_run_sla, self.networks[0], batch.images)
        options = (self._temperature, self._joint_weight, self._label_smoothing)
        return self.run(sla_loss, *output, batch.labels, *options).unsqueeze(0)


def _run_sla(network: SlaNetwork, images: Tensor) -> SlaOutput:
    output: SlaOutput = network(images)
    return output
