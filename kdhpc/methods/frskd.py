"""FRSKD, a baseline: one network that learns from a self-teacher, which refines its features.

Source: Ji et al., "Refine myself by teaching myself: feature refinement via self-knowledge distillation", CVPR 2021;
the authors' code, https://github.com/MingiJi/FRSKD.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kdhpc.config.schema import TrainConfig
from kdhpc.losses.frskd import frskd_loss
from kdhpc.methods.method import OpenRun
from kdhpc.methods.self_taught import SelfTaughtMethod, SelfTaughtModel, check_single
from kdhpc.networks.frskd import FrskdNetwork, FrskdOutput, build_frskd
from kdhpc.training.batches import ImageBatch
from kdhpc.training.setting import TrainingSetting


@dataclass(frozen=True, kw_only=True)
class FrskdMethod(SelfTaughtMethod):
    """A network and its self-teacher, which are trained together."""

    alpha: float
    """Weight of the distillation of probabilities."""
    beta: float
    """Weight of the attention losses."""

    title: ClassVar[str] = "FRSKD"
    name: ClassVar[str] = "frskd"

    @classmethod
    def from_config(cls, config: TrainConfig, open_run: OpenRun) -> "FrskdMethod":
        """``run.graph=frskd``.

        Raises:
            ConfigError: an option that has no meaning.
        """
        check_single(config)
        return cls(
            network=config.network,
            image_size=config.dataset.image_size,
            alpha=config.run.alpha,
            beta=config.run.beta,
        )

    @property
    def settings(self) -> Mapping[str, object]:
        """Both weights."""
        return {"run.alpha": self.alpha, "run.beta": self.beta}

    def model(self, setting: TrainingSetting, seed: int) -> "FrskdModel":
        """A network and its self-teacher."""
        return FrskdModel(self, setting, seed)


class FrskdModel(SelfTaughtModel[FrskdNetwork]):
    """One network and its self-teacher, with one optimiser.

    Args:
        method: Its options.
        setting: The network, and what it is trained with.
        seed: Initial weights follow from it.

    Raises:
        NetworkError: the network cannot be built, or is no plain residual network.
    """

    def __init__(self, method: FrskdMethod, setting: TrainingSetting, seed: int) -> None:
        super().__init__(
            lambda _: build_frskd(setting.network, num_classes=setting.num_classes, image_size=setting.image_size),
            num_networks=1,
            setting=setting,
            seed=seed,
        )
        self._weights = (method.alpha, method.beta, setting.training.label_smoothing)

    def losses(self, batch: ImageBatch) -> Tensor:
        """`kdhpc.losses.frskd.frskd_loss`, (1,)."""
        output = self.forward(_run_frskd, self.networks[0], batch.images)
        return self.run(frskd_loss, *output, batch.labels, *self._weights).unsqueeze(0)


def _run_frskd(network: FrskdNetwork, images: Tensor) -> FrskdOutput:
    output: FrskdOutput = network(images)
    return output
