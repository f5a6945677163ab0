"""ONE, a baseline: one branched network. Its branches are the nodes, its gate's output is the ensemble.

Source: Lan et al., "Knowledge distillation by on-the-fly native ensemble" (paper reference 16).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from kdhpc.config.schema import TrainConfig
from kdhpc.errors import ConfigError
from kdhpc.losses.coefficients import other_weight
from kdhpc.losses.one import one_loss, ramp_up
from kdhpc.methods.method import Method, OpenRun, refuse_unlearned
from kdhpc.networks.one import GatedOneNetwork, OneNetwork, OneOutput, build_one
from kdhpc.training.batches import ImageBatch
from kdhpc.training.evaluation import Prediction
from kdhpc.training.model import Model
from kdhpc.training.schedule import ScheduleStep
from kdhpc.training.setting import TrainingSetting


@dataclass(frozen=True, kw_only=True)
class OneMethod(Method):
    """A network with several branches and a gate."""

    num_branches: int
    """B."""

    title: ClassVar[str] = "ONE"
    no_networks: ClassVar[str | None] = "whose branches are no networks of their own"
    no_maps: ClassVar[str | None] = "whose branches give no attention maps"
    single_value_norm: ClassVar[str | None] = "the gate of ONE"

    @classmethod
    def from_config(cls, config: TrainConfig, open_run: OpenRun) -> "OneMethod":
        """``run.graph=one``.

        Raises:
            ConfigError: no number of branches, or an option that has no meaning.
        """
        num_branches = config.run.num_nodes
        if config.network.weights is not None:
            raise ConfigError(
                f"network.weights={config.network.weights} has no meaning for run.graph=one, whose branches are no "
                "networks of their own: leave it out"
            )
        if num_branches is None:
            raise ConfigError("run.graph=one needs a number of branches: give --nodes B (run.num_nodes)")
        refuse_unlearned(config, "whose branches all learn")
        return cls(num_branches=num_branches)

    @classmethod
    def teaching_network(cls, config: TrainConfig, num_classes: int, index: int) -> nn.Module:
        """The gated ensemble."""
        num_branches = config.run.num_nodes
        assert num_branches is not None, "checked before it was trained"
        return build_one(config.network, num_branches=num_branches, num_classes=num_classes, kind=GatedOneNetwork)

    @property
    def num_nodes(self) -> int:
        """B."""
        return self.num_branches

    @property
    def label(self) -> str:
        """Such as ``one3``."""
        return f"one{self.num_branches}"

    @property
    def key(self) -> str:
        """Such as ``one3``."""
        return self.label

    def model(self, setting: TrainingSetting, seed: int) -> "OneModel":
        """A branched network."""
        return OneModel(self, setting, seed)


class OneModel(Model[OneNetwork]):
    """One branched network under the objective of ONE.

    Args:
        method: How many branches.
        setting: The network that is branched, and what it is trained with.
        seed: Initial weights follow from it.

    Raises:
        NetworkError: the network cannot be built.
    """

    def __init__(self, method: OneMethod, setting: TrainingSetting, seed: int) -> None:
        super().__init__(
            lambda _: build_one(setting.network, num_branches=method.num_branches, num_classes=setting.num_classes),
            num_networks=1,
            setting=setting,
            seed=seed,
        )
        self._ramp = torch.zeros((), device=setting.runtime.device)
        self._label_smoothing = setting.training.label_smoothing

    def set_schedule(self, step: ScheduleStep) -> None:
        """The weight of the distillation, which rises over the first epochs."""
        self._ramp.fill_(ramp_up(step.epoch))

    def varied(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Another weight of the distillation."""
        return ((self._ramp, other_weight(self._ramp)),)

    def losses(self, batch: ImageBatch) -> Tensor:
        """`kdhpc.losses.one.one_loss`, (1,)."""
        output = self._outputs(batch.images)
        return self.run(one_loss, *output, batch.labels, self._ramp, self._label_smoothing).unsqueeze(0)

    def predict(self, images: Tensor) -> Prediction:
        """The branches are the nodes, the gated ensemble is the ensemble."""
        output = self._outputs(images)
        return Prediction(output.branch_logits_BNC.float(), output.ensemble_logits_NC.float())

    def _outputs(self, images: Tensor) -> OneOutput:
        return self.forward(_run_one, self.networks[0], images)


def _run_one(network: OneNetwork, images: Tensor) -> OneOutput:
    output: OneOutput = network(images)
    return output
