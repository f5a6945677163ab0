"""Graphs: networks that learn from the labels and from each other. From a file, a preset, or a search.

Dimension suffixes: M nodes, G groups of weights, N samples, C classes, H, W rows and columns of an attention map.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from kdhpc.config.paths import RunPaths
from kdhpc.config.schema import NetworkConfig, TrainConfig
from kdhpc.errors import ConfigError, GraphError
from kdhpc.graph.plugins import names_in, plugins_of
from kdhpc.graph.presets import PRESETS, load_graph, preset_label
from kdhpc.graph.serial import Provenance, read_stored, write_graph
from kdhpc.graph.space import graph_key
from kdhpc.graph.spec import GraphSpec
from kdhpc.graph.zoo import graph_path
from kdhpc.losses.coefficients import (
    GraphCoefficients,
    Terms,
    all_terms,
    graph_coefficients,
    needed_code,
    needed_terms,
    other_coefficients,
    other_weight,
)
from kdhpc.losses.distillation import CropWindows
from kdhpc.losses.kinds import BUILT_IN_KINDS, Kinds, KindsCode, kinds_of
from kdhpc.losses.objective import EnsembleOutput, node_losses
from kdhpc.methods.differences import IMAGES, differences, facts_of
from kdhpc.methods.method import Method, OpenRun
from kdhpc.methods.registry import named_methods
from kdhpc.methods.stacking import OutputShape, Stacking, output_shape, stacked
from kdhpc.networks.build import Network
from kdhpc.networks.names import check_network, crops_of, map_side
from kdhpc.networks.output import NetworkOutput
from kdhpc.networks.own import which_module
from kdhpc.networks.pretrained import check_weights, read_pretrained
from kdhpc.networks.started import build_started
from kdhpc.networks.weights import pretrained_origin
from kdhpc.training.batches import ImageBatch
from kdhpc.training.compile import Programs
from kdhpc.training.evaluation import Prediction, mean_ensemble
from kdhpc.training.model import Model, Trainable, build_seeded, run_network
from kdhpc.training.pretrained import freeze_with, warn_about_unlearned
from kdhpc.training.reach import untaught, weight_groups_of_all
from kdhpc.training.schedule import ScheduleStep
from kdhpc.training.setting import TrainingSetting
from kdhpc.training.streams import OwnStream, on_streams

_LOG = logging.getLogger(__name__)
_COMPARED = (
    *(*IMAGES, "network", "config.network.crops", "config.network.residual_attention"),
    "config.training.batch_size",
)
"""What decides, beside the graph, whether a training is like the trial that the graph comes from."""


@dataclass(frozen=True, kw_only=True)
class GraphMethod(Method):
    """An ensemble that learns under a graph."""

    graph: GraphSpec
    """Who teaches whom."""
    name: str = ""
    """Short name, for folders; empty in a search, which numbers its graphs."""
    source: Provenance = field(default_factory=dict)
    """Where a graph's file says that it comes from."""
    kinds: Kinds | None = None
    """The losses and gates of all graphs that the same model may become; None: those of this one."""

    title: ClassVar[str] = "a graph"
    takes_networks: ClassVar[bool] = True

    @classmethod
    def from_config(cls, config: TrainConfig, open_run: OpenRun) -> "GraphMethod":
        """``run.graph`` is the name of a preset or of a graph of the zoo, or a graph's file.

        Raises:
            ConfigError: a preset without a number of nodes.
            GraphError: neither a preset nor a file, a damaged file, a number of nodes that does not fit, or a graph
                with a node that nothing teaches under ``objective.unlearned=reject``.
        """
        name, num_nodes = config.run.graph, config.run.num_nodes
        preset = name in PRESETS
        if preset and num_nodes is None:
            raise ConfigError(f"run.graph={name} needs a number of nodes: give --nodes M (run.num_nodes)")
        graph = load_graph(name, num_nodes, other_names=named_methods())
        if graph.unlearned_nodes and config.objective.unlearned == "reject":
            nodes = ", ".join(str(node + 1) for node in graph.unlearned_nodes)
            raise GraphError(f"{name}: no edge teaches node {nodes}: not allowed under objective.unlearned=reject")
        return cls(
            graph=trained_with(graph, config.network, name=name),
            name=preset_label(name, graph.num_nodes) if preset else graph_path(name).stem,
            source={"preset": name} if preset else read_stored(graph_path(name)).provenance,
        )

    @property
    def num_nodes(self) -> int:
        """M."""
        return self.graph.num_nodes

    @property
    def label(self) -> str:
        """The preset and its number of nodes, or the file's name without its ending."""
        return self.name

    @property
    def key(self) -> str:
        """Names the graph by what it does. The networks of its nodes are settings."""
        return graph_key(replace(self.graph, networks=()))

    @property
    def compares_maps(self) -> bool:
        """Whether some edge does."""
        return self.graph.compares_maps

    @property
    def provenance(self) -> Provenance:
        """Where a graph's file says that it comes from."""
        return self.source

    @property
    def settings(self) -> Mapping[str, object]:
        """The digests of the plug-ins whose designs and gates it has."""
        return {f"plugins.{module}": digest for module, digest in plugins_of(names_in(self.graph)).items()}

    def compiled_name(self, network: str) -> str:
        """What is compiled for one graph serves all of them."""
        return network

    def check(self, num_classes: int) -> None:
        """Refuse code of plug-ins that cannot be used.

        Raises:
            ConfigError: as :func:`kdhpc.losses.kinds.kinds_of`.
        """
        kinds_of(names_in(self.graph))

    def warn_about(self, config: TrainConfig, dataset_checksum: str) -> None:
        """Log nodes that nothing teaches, and that the graph was searched with something else."""
        warn_about_unlearned(self.graph, config.network, config.objective, name=config.run.graph)
        if said := differences(self.provenance, facts_of(config, dataset_checksum), _COMPARED):
            _LOG.warning("%s was searched with %s; it is trained with %s", config.run.graph, *said)

    def write_files(self, paths: RunPaths) -> None:
        """The graph, with its provenance."""
        write_graph(paths.graph, self.graph, self.provenance)

    def model(self, setting: TrainingSetting, seed: int) -> "GraphModel":
        """A network for each node."""
        return GraphModel(self.graph, setting, seed, kinds=self.kinds)


def trained_with(graph: GraphSpec, network: NetworkConfig, *, name: str) -> GraphSpec:
    """The graph with the networks that a final training gives its nodes, named where they differ.

    Args:
        graph: As its file has it.
        network: Of the training.
        name: What messages call the graph.

    Raises:
        ConfigError: the graph names other networks.
    """
    network = network.settled(graph.num_nodes, f"the nodes of {name} are")
    if graph.networks and network.for_nodes(graph.networks) != network:
        raise ConfigError(
            f"{name} has the networks {', '.join(graph.networks)}, network={network.name} is not the same: leave "
            "network= out"
        )
    return replace(graph, networks=network.nodes)


class GraphModel(Model[Network]):
    """M networks, one shared batch a step.

    Args:
        graph: Who teaches whom.
        setting: The networks of the nodes, unless the graph names them, and what they are trained with.
        seed: Initial weights follow from it.
        kinds: The losses and gates of all graphs that it may become; None: those of this one.

    Raises:
        ConfigError: code of a plug-in cannot be used.
        NetworkError: the network cannot be built, its attention map is smaller than a crop, or the pretrained weights
            are another network's.
    """

    def __init__(self, graph: GraphSpec, setting: TrainingSetting, seed: int, *, kinds: Kinds | None = None) -> None:
        image_size, device = setting.image_size, setting.runtime.device
        self._setting_network = setting.network
        self._network = setting.network.for_nodes(graph.networks)

        def build(node: int, network: NetworkConfig | None = None) -> Network:
            return build_started(
                network or self._network, num_classes=setting.num_classes, image_size=image_size, node=node
            )

        super().__init__(build, num_networks=graph.num_nodes, setting=setting, seed=seed)
        self._possible = setting.possible_networks
        if self._possible:
            self.pool = tuple(
                self.networks[node]
                if one.name == self._network.of(node).name
                else build_seeded(partial(build, network=one), seed=seed, node=node, runtime=setting.runtime)
                for node in range(graph.num_nodes)
                for one in self._possible
            )
        self._label_smoothing = setting.training.label_smoothing
        self._objective = setting.objective
        self._pretrained = {
            name: weights
            for name in self._different
            if (weights := read_pretrained(setting.objective, name)) is not None
        }
        self.frozen_train = setting.objective.unlearned_norm == "batch"
        self._streams = [OwnStream(device) for _ in range(graph.num_nodes) if setting.runtime.node_streams]
        self._same_as = self._find_same()
        groups = weight_groups_of_all(self.pool, image_size, same_as=self._same_as)
        self._groups = groups[0]
        self.weight_groups = [[group.names for group in own] for own in groups]
        self._graph = graph
        self.untaught_MG = torch.zeros(graph.num_nodes, len(self._groups), device=device)
        for name, weights in self._pretrained.items():  # For every graph: a search hears of a wrong file at once.
            check_weights(self._different[name], weights, origin=pretrained_origin(self._objective, name))
        self._kinds = kinds or kinds_of(names_in(graph))
        self._coefficients = graph_coefficients(graph, device=device, dtype=torch.float32, kinds=self._kinds)
        self._image_size = image_size
        self._shapes = self._output_shapes()
        self._stacking = Stacking(
            self._shapes,
            self._node_shapes,
            crops=crops_of(self._network, image_size, self._possible),
            objective=setting.objective,
            device=device,
        )
        self._ramp = torch.zeros((), device=device)
        self._set_graph(graph)

    @property
    def active(self) -> tuple[int, ...]:
        """Where in `pool` the networks of the nodes are: the pool has all possible ones of node 1, then of node 2."""
        if not self._possible:
            return super().active
        names = [one.name for one in self._possible]
        return tuple(
            node * len(names) + names.index(self._network.of(node).name) for node in range(self._graph.num_nodes)
        )

    def choose(self, method: Trainable) -> None:
        """Have the networks of another graph of as many nodes."""
        assert isinstance(method, GraphMethod), "another method needs another training"
        assert method.num_nodes == len(self.networks), "another number of nodes needs another training"
        self._network = self._setting_network.for_nodes(method.graph.networks)
        self.networks = tuple(self.pool[index] for index in self.active)
        self._stacking.choose(self._node_shapes)

    def become(self, method: Trainable) -> None:
        """Learn under another graph of as many nodes, whose networks are chosen already."""
        assert isinstance(method, GraphMethod), "another method needs another training"
        coefficients = graph_coefficients(method.graph, device="cpu", dtype=torch.float32, kinds=self._kinds)
        for ours, new in zip(self._coefficients, coefficients, strict=True):
            ours.copy_(new)
        self._set_graph(method.graph)

    def use(self, programs: Programs) -> None:
        """Compute by these from now on."""
        super().use(programs)
        self._set_terms()

    def set_schedule(self, step: ScheduleStep) -> None:
        """The weight of ``linear`` gates."""
        self._ramp.fill_(step.step / step.num_steps)

    def varied(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Not every value is a graph's: each coefficient, and the ramp, is another."""
        return (
            *zip(self._coefficients, other_coefficients(self._coefficients), strict=True),
            (self._ramp, other_weight(self._ramp)),
        )

    def losses(self, batch: ImageBatch) -> Tensor:
        """`kdhpc.losses.objective.node_losses`, (M,)."""
        output = self._outputs(batch.images)
        return self.run(
            graph_losses,
            output,
            batch.labels,
            self._coefficients,
            self._stacking.windows,
            self._ramp,
            self._terms,
            self._label_smoothing,
            self._code,
        )

    def predict(self, images: Tensor) -> Prediction:
        """The ensemble is the mean of the nodes."""
        outputs = [self.forward(run_network, network, images) for network in self.networks]
        return mean_ensemble(torch.stack([output.logits for output in outputs]))

    def _outputs(self, images: Tensor) -> EnsembleOutput:
        def forward(index: int) -> NetworkOutput:
            return self.forward(run_network, self.networks[index], images)

        # Frozen nodes are not differentiated: a program of all networks would be another one for each choice of them,
        # and for each choice of networks.
        if self.programs.combines and not self.frozen and not self._possible:
            if self._stacking.is_plain:
                return self.forward(_run_networks, self.networks, images)
            return self._stacking.stack(self.forward(_run_different, self.networks, images))
        num_nodes = len(self.networks)
        outputs = on_streams(forward, self._streams) if self._streams else [forward(m) for m in range(num_nodes)]
        return self._stacking.stack(outputs)

    @property
    def _different(self) -> dict[str, Network]:
        """One network of each name that a node may have."""
        if self._possible:
            return dict(zip((one.name for one in self._possible), self.pool, strict=False))
        return {self._network.of(node).name: network for node, network in reversed(list(enumerate(self.networks)))}

    def _find_same(self) -> tuple[int, ...]:
        """For each network in `pool` the index of the first one that is the same, but for the values of its weights.

        Nodes of a list of modules have one name and different networks.
        """
        nodes = range(len(self.networks))
        if self._possible:
            kinds = [(one.name, 0) for _ in nodes for one in self._possible]
        else:
            names = [self._network.of(node).name for node in nodes]
            kinds = [(name, which_module(name, node)) for node, name in enumerate(names)]
        return tuple(map(kinds.index, kinds))

    def _output_shapes(self) -> tuple[OutputShape, ...]:
        """Of each network in `pool`."""
        different = dict.fromkeys(self._same_as)
        if len(different) == 1:  # Whatever else it gives, all nodes give it.
            side = map_side(self._network.name, self._image_size, layer=self._network.layer)
            return (OutputShape(map_side=side),) * len(self.pool)
        shapes = {index: output_shape(self.pool[index], self._image_size) for index in different}
        return tuple(shapes[index] for index in self._same_as)

    @property
    def _node_shapes(self) -> tuple[OutputShape, ...]:
        return tuple(self._shapes[index] for index in self.active)

    def _set_graph(self, graph: GraphSpec) -> None:
        """All of a graph that is no coefficient of a loss."""
        check_network(self._network, self._image_size, compares_maps=graph.compares_maps)
        self.untaught_MG.copy_(untaught(graph, self._groups))
        self.frozen = graph.unlearned_nodes if self._pretrained else ()
        for index in self.frozen:
            name = self._network.of(index).name
            freeze_with(self.networks[index], self._pretrained[name], origin=pretrained_origin(self._objective, name))
            self.networks[index].train(self.frozen_train)
        self._graph = graph
        self._set_terms()

    def _set_terms(self) -> None:
        """Eager runs leave out what the graph does not use; other programs are the same for all graphs."""
        eager = self.programs.mode == "eager"
        self._terms = needed_terms(self._graph) if eager else all_terms(self._graph.num_nodes)
        self._code = needed_code(self._graph, self._kinds) if eager else self._kinds.code


def graph_losses(
    output: EnsembleOutput,
    labels: Tensor,
    coefficients: GraphCoefficients,
    windows: CropWindows,
    ramp: Tensor,
    terms: Terms,
    label_smoothing: float = 0.0,
    code: KindsCode = BUILT_IN_KINDS.code,
) -> Tensor:
    """`node_losses`, as a function that can be compiled once for all graphs."""
    return node_losses(
        output, labels, coefficients, windows, ramp, terms=terms, label_smoothing=label_smoothing, code=code
    )


def _run_networks(networks: tuple[Network, ...], images: Tensor) -> EnsembleOutput:
    return stacked([network(images) for network in networks])


def _run_different(networks: tuple[Network, ...], images: Tensor) -> tuple[NetworkOutput, ...]:
    return tuple(network(images) for network in networks)
