"""An ensemble that learns under a graph.

Dimension suffixes: M nodes, N samples, C classes, H, W rows and columns of an attention map.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from kdhpc.config.schema import DeviceConfig, NetworkConfig, ObjectiveConfig, TrainingConfig
from kdhpc.errors import CheckpointError
from kdhpc.graph.spec import GraphSpec
from kdhpc.losses.coefficients import (
    all_terms,
    graph_coefficients,
    needed_terms,
    other_coefficients,
    other_weight,
)
from kdhpc.losses.distillation import crop_windows
from kdhpc.losses.objective import EnsembleOutput
from kdhpc.networks.build import Network, build_network
from kdhpc.networks.names import map_side
from kdhpc.networks.output import NetworkOutput
from kdhpc.networks.weights import pretrained_origin
from kdhpc.training.batches import EvalSource, ImageBatch
from kdhpc.training.counters import BatchCounters
from kdhpc.training.device import enforce_precision, has_node_streams, place
from kdhpc.training.evaluation import Accuracies, NotFinite, Prediction, mean_ensemble, top1_accuracies
from kdhpc.training.learner import Moment
from kdhpc.training.node import NetworkT, Node, NodeState
from kdhpc.training.pretrained import check_weights, freeze_with, read_pretrained
from kdhpc.training.programs import Programs, stacked
from kdhpc.training.reach import untaught, weight_groups
from kdhpc.training.schedule import learning_rate
from kdhpc.training.streams import OwnStream, on_streams
from kdhpc.training.varying import overwritten


def node_seed(seed: int, node: int) -> int:
    """Seeds the initial weights of a node (0-based) of a trial: any two differ."""
    digest = hashlib.sha256(f"weights of node {node} under seed {seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def build_seeded(
    build: Callable[[], NetworkT], *, seed: int, node: int, target: torch.device, channels_last: bool
) -> NetworkT:
    """A network whose initial weights follow from seed and node, whatever the device and whatever ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(node_seed(seed, node))
        network = build()
    return place(network, target, channels_last=channels_last)


class EnsembleLearner:
    """M networks, one shared batch a step: all forwards, then all losses, then all updates.

    Args:
        graph: Who teaches whom.
        network: Of every node.
        objective: Options of the losses.
        training: Optimiser and schedule.
        device: Precision and memory format.
        target: Where it runs.
        programs: What computes the step.
        num_classes: C.
        image_size: Side of the images, in pixels.
        seed: The trial's; initial weights follow from it, whatever the device.

    Raises:
        NetworkError: the network cannot be built, its attention map is smaller than a crop, or the pretrained weights
            are another network's.
        ConfigError: the precision does not fit the device.
    """

    def __init__(
        self,
        *,
        graph: GraphSpec,
        network: NetworkConfig,
        objective: ObjectiveConfig,
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
        self._autocast = enforce_precision(device, target)
        self._objective = objective
        self._pretrained = read_pretrained(objective)
        self._streams = [OwnStream(target) for _ in range(graph.num_nodes) if has_node_streams(device, target)]

        def build(node: int, seed: int, where: torch.device) -> Network:
            return build_seeded(
                lambda: build_network(network, num_classes=num_classes, image_size=image_size, node=node),
                seed=seed,
                node=node,
                target=where,
                channels_last=device.channels_last,
            )

        self._build = build
        networks = [build(index, seed, target) for index in range(graph.num_nodes)]
        self._groups = weight_groups(networks[0], image_size)
        self._nodes = [
            Node(
                network,
                training,
                groups=[group.names for group in self._groups],
                scale_loss=self.scales_loss,
                capturable=programs.records,
            )
            for network in networks
        ]
        self._counters = BatchCounters(networks)
        self._ones_M = torch.ones(graph.num_nodes, device=target)
        self._untaught_MG = torch.zeros(graph.num_nodes, len(self._groups), device=target)
        self._check_pretrained()
        self._coefficients = graph_coefficients(graph, device=target, dtype=torch.float32)
        side = map_side(network.name, image_size)
        self._windows = crop_windows(
            network.crops,
            height=side,
            width=side,
            reduction=objective.attention_reduction,
            device=target,
            dtype=torch.float32,
        )
        self._ramp = torch.zeros((), device=target)
        self._set_graph(graph)

    def restart(self, graph: GraphSpec, seed: int) -> None:
        """Become, in the same memory, what a new learner of that graph and seed would be.

        Args:
            graph: Of as many nodes as this one's.
            seed: Initial weights follow from it.
        """
        assert graph.num_nodes == len(self._nodes), "another number of nodes needs another learner"
        for index, node in enumerate(self._nodes):
            node.restart(self._build(index, seed, torch.device("cpu")).state_dict())
        for ours, new in zip(
            self._coefficients, graph_coefficients(graph, device="cpu", dtype=torch.float32), strict=True
        ):
            ours.copy_(new)
        self._set_graph(graph)

    @property
    def num_losses(self) -> int:
        """M."""
        return len(self._nodes)

    @property
    def programs(self) -> Programs:
        """What computes a step."""
        return self._programs

    def use(self, programs: Programs) -> None:
        """Compute steps by these from now on."""
        self._programs = programs
        self._set_terms()

    @property
    def structure(self) -> Hashable:
        """The frozen nodes: they run in evaluation mode, and nothing is differentiated for them."""
        return self._frozen

    @property
    def networks(self) -> tuple[Network, ...]:
        """The nodes' networks."""
        return tuple(node.network for node in self._nodes)

    def step(self, batch: ImageBatch, moment: Moment) -> Tensor:
        """`set_moment` and `learn`."""
        self.set_moment(moment)
        return self.learn(batch)

    def set_moment(self, moment: Moment) -> None:
        """Tell the next `learn` where it stands."""
        self._ramp.fill_(moment.step / moment.num_steps)
        for node in self._nodes:
            node.set_learning_rate(learning_rate(self._training, moment.epoch))

    @contextmanager
    def varied(self) -> Iterator[None]:
        """See `Learner.varied`. Not every value is a graph's: each coefficient, ramp and group is another."""
        untaught_MG = self._untaught_MG.clone()
        for m in self._learning()[:1]:  # One group of one node: the others still move.
            untaught_MG[m, -1] = 1 - untaught_MG[m, -1]
        with ExitStack() as stack:
            for node in self._nodes:
                stack.enter_context(node.varied())
            stack.enter_context(
                overwritten(
                    *zip(self._coefficients, other_coefficients(self._coefficients), strict=True),
                    (self._ramp, other_weight(self._ramp)),
                    (self._untaught_MG, untaught_MG),
                )
            )
            yield

    def learn(self, batch: ImageBatch) -> Tensor:
        """Learn the batch. Returns each node's loss before the update, (M,), detached. Nothing waits for the host."""
        loss_M = self._programs.objective(
            self._outputs(batch.images),
            batch.labels,
            self._coefficients,
            self._windows,
            self._ramp,
            self._terms,
        )
        learning = self._learning()
        # One backward pass: a node's loss reaches no other node.
        if learning and self.scales_loss:
            losses = loss_M.unbind()
            torch.autograd.backward([self._nodes[m].loss_to_differentiate(losses[m]) for m in learning])
        elif learning:
            torch.autograd.backward([loss_M], [self._ones_M])
        # Weights that no edge teaches stay as they are, and all of a node whose gates stopped every loss.
        skip_MG = torch.maximum((loss_M.detach() == 0).float().unsqueeze(1), self._untaught_MG)
        for m in learning:
            self._nodes[m].update(skip_MG[m])
        self._counters.count()
        return loss_M.detach()

    def evaluate(self, source: EvalSource) -> Accuracies | NotFinite:
        """Top-1 accuracies of the nodes and of their mean."""
        for node in self._nodes:
            node.network.eval()
        accuracies = top1_accuracies(self._predict, source)
        for index, node in enumerate(self._nodes):
            node.network.train(index not in self._frozen)
        return accuracies

    @property
    def scales_loss(self) -> bool:
        """fp16."""
        return self._autocast is torch.float16

    def are_finite(self) -> Tensor:
        """Whether all weights, statistics and momenta of each node are, (M,), bool, on the device."""
        return torch.stack([node.is_finite() for node in self._nodes])

    def state(self) -> tuple[NodeState, ...]:
        """A copy of all that moves, on the CPU."""
        return tuple(node.state() for node in self._nodes)

    def restore(self, states: tuple[NodeState, ...]) -> None:
        """Become that state.

        Raises:
            CheckpointError: it is of another ensemble; nothing has changed.
        """
        if len(states) != len(self._nodes):
            raise CheckpointError(f"the checkpoint holds {len(states)} nodes, this graph has {len(self._nodes)}")
        for node, state in zip(self._nodes, states, strict=True):
            node.check(state)
        for node, state in zip(self._nodes, states, strict=True):
            node.restore(state)

    def _learning(self) -> list[int]:
        """The nodes that learn."""
        return [index for index in range(len(self._nodes)) if index not in self._frozen]

    def _set_graph(self, graph: GraphSpec) -> None:
        """All of a graph that is no coefficient of a loss."""
        self._untaught_MG.copy_(untaught(graph, self._groups))
        self._frozen = graph.unlearned_nodes if self._pretrained is not None else ()
        self._counters.freeze(self._frozen)
        if self._pretrained is not None:
            for index in self._frozen:
                freeze_with(self._nodes[index].network, self._pretrained, origin=pretrained_origin(self._objective))
        self._graph = graph
        self._set_terms()

    def _set_terms(self) -> None:
        """Eager runs leave out what the graph does not use; other programs are the same for all graphs."""
        eager = self._programs.mode == "eager"
        self._terms = needed_terms(self._graph) if eager else all_terms(self._graph.num_nodes)

    def _check_pretrained(self) -> None:
        """For every graph: a search hears of a wrong file at once, and not at its first unlearned node."""
        if self._pretrained is not None:
            check_weights(self._nodes[0].network, self._pretrained, origin=pretrained_origin(self._objective))

    def _outputs(self, images: Tensor) -> EnsembleOutput:
        def forward(index: int) -> NetworkOutput:
            return self._forward(index, images)

        num_nodes = len(self._nodes)
        # Frozen nodes run in another mode: a program of all networks would be another one for each choice of them.
        if self._programs.combines and not self._frozen:
            with self._precision():
                return self._programs.networks(self.networks, images)
        outputs = on_streams(forward, self._streams) if self._streams else [forward(m) for m in range(num_nodes)]
        return stacked(outputs)

    def _forward(self, index: int, images: Tensor) -> NetworkOutput:
        with self._precision():
            return self._programs.network(self._nodes[index].network, images)

    def _precision(self) -> torch.autocast:
        """What networks are called under."""
        return torch.autocast(self._target.type, self._autocast, enabled=self._autocast is not None)

    def _predict(self, images: Tensor) -> Prediction:
        outputs = [self._forward(index, images) for index in range(len(self._nodes))]
        return mean_ensemble(torch.stack([output.logits for output in outputs]))
