"""The interface of a method: what is trained, what it depends on, and what a run of it is good for afterwards."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Protocol

from torch import Tensor, nn

from kdhpc.config.paths import RunPaths
from kdhpc.config.schema import NetworkConfig, TrainConfig
from kdhpc.errors import ConfigError
from kdhpc.graph.serial import Provenance
from kdhpc.networks.build import build_network
from kdhpc.training.model import AnyModel
from kdhpc.training.setting import TrainingSetting


class TrainedRun(Protocol):
    """A final training that is done, as far as a method asks."""

    @property
    def label(self) -> str:
        """Short name, for folders and tables."""
        ...

    @property
    def origin(self) -> str:
        """What messages call it."""
        ...

    @property
    def config(self) -> TrainConfig:
        """What it was trained with."""
        ...

    @property
    def method(self) -> "type[Method]":
        """What it was trained by."""
        ...

    @property
    def dataset_checksum(self) -> str:
        """Of the images that it learnt from."""
        ...

    @property
    def ensemble_accuracy(self) -> float:
        """Top-1, in percent, on the images that it was scored on."""
        ...

    @property
    def node_accuracies(self) -> tuple[float, ...]:
        """The same of each node."""
        ...

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files of its networks."""
        ...

    def read_weights(self, index: int) -> dict[str, Tensor]:
        """What is in the file of a network; ``index`` counts from 0.

        Raises:
            NetworkError: it is missing or damaged, or holds numbers that are none.
            StorageError: the file system refuses.
        """
        ...

    def teaching_network(self, index: int, num_classes: int) -> nn.Module:
        """A network of the shapes in the file of that number, from 0; see `Method.teaching_network`."""
        ...

    def weights_digest(self, *indices: int) -> str:
        """Names the content of those files; of all without an index.

        Raises:
            NetworkError: one is missing.
            StorageError: the file system refuses.
        """
        ...

    def check_weights(self) -> None:
        """Refuse weights that are not those that training has written.

        Raises:
            NetworkError: they are refused.
            StorageError: the file system refuses.
        """
        ...


class OpenRun(Protocol):
    """Opens a final training that is done; see `kdhpc.final.finished.open_finished`."""

    def __call__(self, folder: Path, *, origin: str) -> TrainedRun:
        """The run in a folder.

        Args:
            folder: Where it lies.
            origin: What messages call it.

        Raises:
            ConfigError: no finished run lies there, or one that diverged.
            DataError: its result cannot be read.
        """
        ...


class Method(ABC):
    """What a final training, or a trial of a search, trains."""

    title: ClassVar[str]
    """What messages call a run of it: ``is a run of TITLE``."""
    no_teacher: ClassVar[str | None] = None
    """Why a run of it cannot teach a student; None: it can, see `teaching_network`."""
    no_networks: ClassVar[str | None] = None
    """Why its nodes are no networks of their own; None: each file of weights is one, see `node_network`."""
    no_maps: ClassVar[str | None] = None
    """Why its nodes give no attention maps; None: they do."""
    takes_networks: ClassVar[bool] = False
    """Whether its nodes may be different networks."""
    single_value_norm: ClassVar[str | None] = None
    """Where batch norm sees one value an image, whatever the image size, so that a batch needs two; None: nowhere."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: TrainConfig, open_run: OpenRun) -> "Method":
        """What a config means.

        Args:
            config: Of a final training.
            open_run: Opens another training that the config names.

        Raises:
            ConfigError: options that are missing, or that have no meaning.
            KdhpcError: a file that it names is damaged or does not fit.
        """

    @property
    @abstractmethod
    def num_nodes(self) -> int:
        """M, the nodes that the ensemble is made of."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Short name, for folders."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Names what it does, not where that comes from. Begins with the method's name in the registry; the key of a
        graph alone does not."""

    @abstractmethod
    def model(self, setting: TrainingSetting, seed: int) -> AnyModel:
        """See `kdhpc.training.model.Trainable`."""

    @classmethod
    def node_network(cls, config: TrainConfig, num_classes: int, node: int) -> nn.Module:
        """A network of the shapes in the file of a node, from 0, which gives `NetworkOutput`."""
        return build_network(config.network, num_classes=num_classes, image_size=config.dataset.image_size, node=node)

    @classmethod
    def teaching_network(cls, config: TrainConfig, num_classes: int, index: int) -> nn.Module:
        """A network of the shapes in a file of weights, from 0, which gives `NetworkOutput`.

        The mean of the logits over all files is the ensemble, which teaches a student.
        """
        return cls.node_network(config, num_classes, index)

    def compiled_name(self, network: str) -> str:
        """Names what is compiled: the network, and what other methods do not compile."""
        return f"{self.label} {network}"

    @property
    def teacher(self) -> TrainedRun | None:
        """The run that teaches it; None: it needs none."""
        return None

    @property
    def compares_maps(self) -> bool:
        """Whether it compares attention maps of its nodes: only then their size matters."""
        return False

    @property
    def provenance(self) -> Provenance:
        """Where what is trained comes from, as far as a file says."""
        return {}

    @property
    def settings(self) -> Mapping[str, object]:
        """What its result depends on beside the config's dataset, network, objective and training; JSON values."""
        return {}

    def check(self, num_classes: int) -> None:  # noqa: B027
        """Refuse what would fail when the networks are built, without the cost of building them.

        Raises:
            NetworkError: weights that it needs do not fit.
        """

    def warn_about(self, config: TrainConfig, dataset_checksum: str) -> None:  # noqa: B027
        """Log what a user may not expect."""

    def write_files(self, paths: RunPaths) -> None:  # noqa: B027
        """Write what describes it into the run's folder."""


def settled_network(method: Method, config: TrainConfig) -> NetworkConfig:
    """The networks of a training, now that the number of nodes is known.

    Raises:
        ConfigError: a list where the method takes one network, or a list that is not one for each node.
    """
    if config.network.nodes and not method.takes_networks:
        raise ConfigError(
            f"network=[{','.join(config.network.nodes)}] is not allowed for run.graph={config.run.graph}, which takes "
            "one network: give one"
        )
    return config.network.settled(method.num_nodes, f"the nodes of {config.run.graph} are")


def refuse_unlearned(config: TrainConfig, why: str) -> None:
    """Refuse ``objective.unlearned`` for a method all of whose networks learn.

    Args:
        config: Of the training.
        why: Of the networks, for the message.

    Raises:
        ConfigError: it is given.
    """
    unlearned = config.objective.unlearned
    if unlearned != "keep":
        raise ConfigError(
            f"objective.unlearned={unlearned} has no meaning for run.graph={config.run.graph}, {why}: leave it out"
        )
