"""Graphs: networks that learn from the labels and from each other. From a file, a preset, or a search.

Dimension suffixes: M nodes, G groups of weights, N samples, C classes, H, W rows and columns of an attention map.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from kdhpc.config.paths import RunPaths
from kdhpc.config.schema import TrainConfig
from kdhpc.errors import ConfigError, GraphError
from kdhpc.graph.plugins import names_in, plugins_of
from kdhpc.graph.presets import PRESETS, load_graph, preset_label
from kdhpc.graph.serial import Provenance, read_stored, write_graph
from kdhpc.graph.space import graph_key
from kdhpc.graph.spec import GraphSpec
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
from kdhpc.losses.distillation import CropWindows, crop_windows
from kdhpc.losses.kinds import BUILT_IN_KINDS, Kinds, KindsCode, kinds_of
from kdhpc.losses.objective import EnsembleOutput, node_losses
from kdhpc.methods.differences import IMAGES, differences, facts_of
from kdhpc.methods.method import Method, OpenRun
from kdhpc.methods.registry import named_methods
from kdhpc.networks.build import Network
from kdhpc.networks.names import check_network, crops_of, map_side
from kdhpc.networks.output import NetworkOutput
from kdhpc.networks.started import build_started
from kdhpc.networks.weights import pretrained_origin
from kdhpc.training.batches import ImageBatch
from kdhpc.training.compile import Programs
from kdhpc.training.evaluation import Prediction, mean_ensemble
from kdhpc.training.model import Model, Trainable, run_network
from kdhpc.training.pretrained import check_weights, freeze_with, read_pretrained, warn_about_unlearned
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

    @classmethod
    def from_config(cls, config: TrainConfig, open_run: OpenRun) -> "GraphMethod":
        """``run.graph`` is the name of a preset, or a graph's file.

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
            graph=graph,
            name=preset_label(name, graph.num_nodes) if preset else Path(name).stem,
            source={"preset": name} if preset else read_stored(Path(name)).provenance,
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
        """Names the graph by what it does."""
        return graph_key(self.graph)

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
        warn_about_unlearned(self.graph, config.objective, name=config.run.graph)
        if said := differences(self.provenance, facts_of(config, dataset_checksum), _COMPARED):
            _LOG.warning("%s was searched with %s; it is trained with %s", config.run.graph, *said)

    def write_files(self, paths: RunPaths) -> None:
        """The graph, with its provenance."""
        write_graph(paths.graph, self.graph, self.provenance)

    def model(self, setting: TrainingSetting, seed: int) -> "GraphModel":
        """A network for each node."""
        return GraphModel(self.graph, setting, seed, kinds=self.kinds)


class GraphModel(Model[Network]):
    """M networks, one shared batch a step.

    Args:
        graph: Who teaches whom.
        setting: The network of every node, and what it is trained with.
        seed: Initial weights follow from it.
        kinds: The losses and gates of all graphs that it may become; None: those of this one.

    Raises:
        ConfigError: code of a plug-in cannot be used.
        NetworkError: the network cannot be built, its attention map is smaller than a crop, or the pretrained weights
            are another network's.
    """

    def __init__(self, graph: GraphSpec, setting: TrainingSetting, seed: int, *, kinds: Kinds | None = None) -> None:
        network, image_size, device = setting.network, setting.image_size, setting.runtime.device
        super().__init__(
            lambda node: build_started(network, num_classes=setting.num_classes, image_size=image_size, node=node),
            num_networks=graph.num_nodes,
            setting=setting,
            seed=seed,
        )
        self._label_smoothing = setting.training.label_smoothing
        self._pretrained = read_pretrained(setting.objective, network.name)
        self._origin = pretrained_origin(setting.objective, network.name)
        self.frozen_train = setting.objective.unlearned_norm == "batch"
        self._streams = [OwnStream(device) for _ in range(graph.num_nodes) if setting.runtime.node_streams]
        groups = weight_groups_of_all(self.networks, image_size)
        self._groups = groups[0]
        self.weight_groups = [[group.names for group in own] for own in groups]
        self.untaught_MG = torch.zeros(graph.num_nodes, len(self._groups), device=device)
        if self._pretrained is not None:  # For every graph: a search hears of a wrong file at once.
            check_weights(self.networks[0], self._pretrained, origin=self._origin)
        self._kinds = kinds or kinds_of(names_in(graph))
        self._coefficients = graph_coefficients(graph, device=device, dtype=torch.float32, kinds=self._kinds)
        self._check_maps = partial(check_network, network, image_size)
        side = map_side(network.name, image_size, layer=network.layer)
        self._windows = crop_windows(
            crops_of(network, image_size),
            height=side,
            width=side,
            reduction=setting.objective.attention_reduction,
            device=device,
            dtype=torch.float32,
        )
        self._ramp = torch.zeros((), device=device)
        self._set_graph(graph)

    def become(self, method: Trainable) -> None:
        """Learn under another graph of as many nodes."""
        assert isinstance(method, GraphMethod), "another method needs another training"
        assert method.num_nodes == len(self.networks), "another number of nodes needs another training"
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
            self._windows,
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

        # Frozen nodes are not differentiated: a program of all networks would be another one for each choice of them.
        if self.programs.combines and not self.frozen:
            return self.forward(_run_networks, self.networks, images)
        num_nodes = len(self.networks)
        outputs = on_streams(forward, self._streams) if self._streams else [forward(m) for m in range(num_nodes)]
        return _stacked(outputs)

    def _set_graph(self, graph: GraphSpec) -> None:
        """All of a graph that is no coefficient of a loss."""
        self._check_maps(compares_maps=graph.compares_maps)
        self.untaught_MG.copy_(untaught(graph, self._groups))
        self.frozen = graph.unlearned_nodes if self._pretrained is not None else ()
        if self._pretrained is not None:
            for index in self.frozen:
                freeze_with(self.networks[index], self._pretrained, origin=self._origin)
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
    return _stacked([network(images) for network in networks])


def _stacked(outputs: Sequence[NetworkOutput]) -> EnsembleOutput:
    """The outputs of all nodes."""
    extra = zip(*(output.extra_hard_logits for output in outputs), strict=True)
    return EnsembleOutput(
        torch.stack([output.logits for output in outputs]),
        torch.stack([output.attention_map for output in outputs]),
        tuple(torch.stack(logits) for logits in extra),
    )
