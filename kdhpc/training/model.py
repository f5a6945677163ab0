"""What a method trains: its networks, the loss of a batch, and its prediction.

The rest of the training room knows this interface and no method. Dimension suffixes: M networks that learn, G groups of
weights, N samples, C classes.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, ParamSpec, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from kdhpc.networks.output import NetworkOutput
from kdhpc.training.batches import ImageBatch
from kdhpc.training.compile import Programs
from kdhpc.training.device import place
from kdhpc.training.evaluation import Prediction
from kdhpc.training.node_trainer import NetworkT
from kdhpc.training.runtime import Runtime
from kdhpc.training.schedule import ScheduleStep
from kdhpc.training.setting import TrainingSetting

P = ParamSpec("P")
R = TypeVar("R")


class Trainable(Protocol):
    """A method, as far as a training asks."""

    def model(self, setting: TrainingSetting, seed: int) -> "AnyModel":
        """Its networks, whose initial weights follow from the seed.

        Raises:
            NetworkError: they cannot be built, or weights that it needs are missing or another network's.
        """
        ...


class Model(ABC, Generic[NetworkT]):
    """Networks, the loss of a batch, the prediction. A method is a subclass.

    Args:
        build: Makes a network that learns, by its number (0-based), from torch's global random state.
        num_networks: M, how many of them learn.
        setting: What it is trained with.
        seed: Initial weights follow from it, whatever the device.
    """

    weight_groups: Sequence[Sequence[Sequence[str]]] | None = None
    """For each network of `pool` all weights by name, in the G groups that `untaught_MG` tells apart; None: a single
    group."""
    frozen: tuple[int, ...] = ()
    """Networks (0-based) that learn nothing for now: nothing differentiates them."""
    frozen_train: bool = False
    """Whether frozen networks are in training mode: normalised by batches, and their statistics move; else those stay.
    """
    untaught_MG: Tensor
    """(M, G), float32, on the device: 1 where a group of weights stays as it is, whatever the loss."""

    def __init__(
        self, build: Callable[[int], NetworkT], *, num_networks: int, setting: TrainingSetting, seed: int
    ) -> None:
        self.runtime: Runtime = setting.runtime
        self.programs: Programs = setting.runtime.programs
        self._build = build
        setting.runtime.enforce()
        self.networks: tuple[NetworkT, ...] = tuple(
            build_seeded(build, seed=seed, node=index, runtime=setting.runtime) for index in range(num_networks)
        )
        self.pool: tuple[NetworkT, ...] = self.networks
        """All networks that may learn, now or after another `become`: `networks` are some of them."""
        self.untaught_MG = torch.zeros(num_networks, 1, device=setting.runtime.device)

    @property
    def kept_networks(self) -> tuple[nn.Module, ...]:
        """What is kept when training ends, a file of weights each: parts that only the training needs are left out."""
        return self.networks

    @property
    def active(self) -> tuple[int, ...]:
        """Where in `pool` each of `networks` is."""
        return tuple(range(len(self.networks)))

    @abstractmethod
    def losses(self, batch: ImageBatch) -> Tensor:
        """What each network learns from a batch, (M,), with gradients towards that network alone.

        Nothing waits for the host, and all tensors that outlast the step stay where they are.
        """

    @abstractmethod
    def predict(self, images: Tensor) -> Prediction:
        """The logits of the nodes and of their ensemble. Networks are in evaluation mode."""

    def set_schedule(self, step: ScheduleStep) -> None:
        """Tell the next `losses` where it stands. Values go into tensors that stay where they are."""

    def varied(self) -> Sequence[tuple[Tensor, Tensor]]:
        """All tensors that a step reads beside its batch and the networks, each with other values that it may have.

        They are so different that a step which still uses the usual values of any of them comes to other results.
        """
        return ()

    def use(self, programs: Programs) -> None:
        """Compute by these from now on."""
        self.programs = programs

    def choose(self, method: Trainable) -> None:
        """Let those networks of the pool be active that this method has. `become` comes after it."""

    def become(self, method: Trainable) -> None:
        """Be what that method's model would be, but for the weights, in the same memory.

        A search calls it for each trial after the first. A method that is never searched needs none.
        """
        raise NotImplementedError(f"a {type(self).__name__} cannot begin anew with {method}: make a new training")

    def fresh_weights(self, seed: int) -> Iterator[Mapping[str, Tensor]]:
        """The initial weights of each network under a seed, on the CPU."""
        for index in range(len(self.networks)):
            yield _seeded(self._build, seed=seed, node=index).state_dict()

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function as the mode asks for: as it is, or compiled."""
        return self.programs.of(function)(*args, **kwargs)

    def forward(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`run` for a function that calls networks: under autocast, where the precision asks for it."""
        with self.runtime.autocast():
            return self.run(function, *args, **kwargs)


AnyModel: TypeAlias = Model[Any]
"""Whatever kind of network learns."""


def run_network(network: nn.Module, images: Tensor) -> NetworkOutput:
    """A node's network, or another that gives the same, as a function that can be compiled once for all nodes."""
    output: NetworkOutput = network(images)
    return output


def node_seed(seed: int, node: int) -> int:
    """Seeds the initial weights of a node (0-based) of a trial: any two differ."""
    digest = hashlib.sha256(f"weights of node {node} under seed {seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def build_seeded(build: Callable[[int], NetworkT], *, seed: int, node: int, runtime: Runtime) -> NetworkT:
    """A network whose initial weights follow from seed and node, whatever the device and whatever ran before."""
    return place(_seeded(build, seed=seed, node=node), runtime.device, channels_last=runtime.channels_last)


def _seeded(build: Callable[[int], NetworkT], *, seed: int, node: int) -> NetworkT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(node_seed(seed, node))
        return build(node)
