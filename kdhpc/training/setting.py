"""What a training is given beside its method and its seed."""

from dataclasses import dataclass

from kdhpc.config.schema import NetworkConfig, ObjectiveConfig, TrainingConfig
from kdhpc.training.batches import EvalSource, TrainSource
from kdhpc.training.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class TrainingSetting:
    """Network, optimisation, data, and where it runs: the same for all trials of a search, and for all seeds."""

    network: NetworkConfig
    """Of the nodes."""
    objective: ObjectiveConfig
    """Options of the losses."""
    training: TrainingConfig
    """Optimiser and schedule."""
    runtime: Runtime
    """Where and how it runs."""
    train: TrainSource
    """Batches to learn from."""
    evaluation: EvalSource
    """Images to score on."""
    num_classes: int
    """C."""
    possible_networks: tuple[NetworkConfig, ...] = ()
    """A search that chooses networks: all that some node of some trial may be, each alone. Empty: nodes have those of
    ``network``."""

    @property
    def image_size(self) -> int:
        """Side of the images, in pixels."""
        return self.train.image_size
