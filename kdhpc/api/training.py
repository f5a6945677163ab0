"""Final trainings for Python users."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kdhpc.api.data import Data, dataset_group, open_data
from kdhpc.api.graphs import Graph, as_graph
from kdhpc.api.keywords import to_overrides, written
from kdhpc.api.networks import ChosenNetwork, Network, choose_network
from kdhpc.cluster.signals import StopSignals
from kdhpc.config.compose import compose_train
from kdhpc.config.paths import RunPaths
from kdhpc.config.schema import TrainConfig
from kdhpc.data.packed import PackedDataset
from kdhpc.errors import ConfigError, GraphError
from kdhpc.final.final import train_final
from kdhpc.final.result import FinalResult, refuse_diverged
from kdhpc.graph.plugins import load_plugins
from kdhpc.graph.presets import PRESETS
from kdhpc.graph.spec import Gate, GraphSpec
from kdhpc.methods.graph import GraphMethod, trained_with
from kdhpc.methods.registry import named_methods
from kdhpc.networks.own import refuse_named_code
from kdhpc.tracking.names import refuse_absent
from kdhpc.training.loop import EpochReport


@dataclass(frozen=True, kw_only=True)
class Run:
    """A final training that is done. :func:`kdhpc.load` loads its ensemble."""

    folder: Path
    """Folder with its weights and its result."""
    result: FinalResult
    """The content of its ``result.json``."""

    @property
    def name(self) -> str:
        """Name of the training, which all seeds with the same settings share."""
        return self.result.name

    @property
    def seed(self) -> int:
        """Seed of the initial weights and the order of the images."""
        return self.result.seed

    @property
    def ensemble_accuracy(self) -> float:
        """Top-1 of the ensemble on the test images, in percent."""
        assert self.result.ensemble_accuracy is not None, "a run that diverged is none of these"
        return self.result.ensemble_accuracy

    @property
    def node_accuracies(self) -> tuple[float, ...]:
        """Top-1 of each node on the test images, in percent."""
        assert self.result.node_accuracies is not None, "a run that diverged is none of these"
        return self.result.node_accuracies


def train(
    graph: "Graph | GraphSpec | str | Path",
    *,
    dataset: Data,
    network: Network | None = None,
    test: Data | None = None,
    classes: Sequence[str] | None = None,
    plugins: Sequence[str] = (),
    on_epoch: Callable[[EpochReport], None] | None = None,
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
    **keywords: object,
) -> Run:
    """Train a graph from scratch on all training images, and score it on the test images.

    This is ``kdhpc train``: the run's folder is ``runs/train/<name>/seed<k>``. A run that was interrupted goes on, and
    one that is done is not trained again. An interrupt (Ctrl-C, a notebook's stop button, SIGTERM) lets the current
    step end, writes a checkpoint and raises KeyboardInterrupt; the same call then goes on.

    Args:
        graph: From :func:`kdhpc.load_graph`, :func:`kdhpc.dml`, :func:`kdhpc.independent`; also a file, or
            ``one``, ``sla``, ``frskd`` or ``student``, as for ``kdhpc train --graph``.
        dataset: The name of a data set that was prepared, a pair (images, labels), or a ``torch.utils.data.Dataset``
            of such pairs. Images are uint8, (N, 1 or 3, H, W); labels are whole numbers from 0.
        network: The name of a network, a callable that makes a new module, or a list of M names, or of M modules, which
            are copied. A module takes images, float32 (N, 3, S, S), and gives logits, (N, C). ``"my_module:MyNet"`` is
            imported. None: the graph names the networks of its nodes.
        test: Images to score on, as ``dataset``; None: the data set's own, or of images in memory a fifth by class.
        classes: Names of the classes of images in memory; None: those that a Dataset says, else numbers.
        plugins: Modules of designs and gates of one's own, which the graph may then have.
        on_epoch: Called with a report after each epoch.
        overrides: Any key of the config, as ``"objective.unlearned=reject"``.
        config_dir: Your own configs, searched before the shipped ones.
        keywords: Keys of the config without their group: ``epochs``, ``batch_size``, ``learning_rate``, ``milestones``,
            ``subset``, ``crops``, ``seed``, ``device``, ``name`` (of the run's folder), ...; ``training="short"``
            chooses a config of that group.

    Returns:
        The finished run.

    Raises:
        ConfigError: a key or value that is not allowed, or something that does not fit.
        DataError: a data set that is not prepared, or images or labels that cannot be used.
        DivergedError: the training came to numbers that are none.
        GraphError: no graph, or one of another number of nodes than ``network`` has.
        NetworkError: an unknown network, or a module that gives no logits for these classes.
        KdhpcError: as ``kdhpc train``.
        KeyboardInterrupt: it was stopped.

    >>> import kdhpc, torch
    >>> images, labels = torch.zeros(40, 3, 16, 16, dtype=torch.uint8), torch.arange(40) % 2
    >>> images[labels == 1] = 255
    >>> run = kdhpc.train(
    ...     kdhpc.dml(2), dataset=(images, labels), network="resnet8", crops=[3], epochs=1, batch_size=8
    ... )
    >>> run.folder.name, len(run.node_accuracies)
    ('seed0', 2)
    """
    if plugins:
        load_plugins(plugins)
        keywords["plugins"] = plugins
    # ONE, students and other methods are no graphs.
    found = None if str(graph) in named_methods() else as_graph(graph, keywords.get("num_nodes"))
    chosen = choose_network(_network_of(found) if network is None else network)
    packed = open_data(dataset, test, classes)
    source = str(graph) if found is None else found.source or found.name
    settings = _settings(source, dataset, chosen, packed, overrides, keywords)
    config = settings.compose(None if config_dir is None else Path(config_dir))
    refuse_absent(config.tracking)
    method = None
    if found is not None:
        _refuse_other_number(found, config)
        _refuse_unlearned(found, config)
        check_fits(found.spec, chosen, config.dataset.image_size)
        if source in PRESETS:
            config = replace(config, run=replace(config.run, num_nodes=found.num_nodes))
        elif found.source is None:
            method = _method(found, config)
    with interrupted_by() as stop:
        result = train_final(
            config,
            show=on_epoch or _ignore,
            should_stop=lambda: stop.requested,
            method=method,
            packed=packed,
        )
    if result is None:
        raise KeyboardInterrupt("stopped: the same call goes on from its checkpoint")
    if stop.requested:  # It came while the last epoch was scored. A loop over seeds must end all the same.
        raise KeyboardInterrupt("stopped; the training is done: the same call returns its run")
    refuse_diverged(result)
    return Run(folder=RunPaths.of(result.name, result.seed).root, result=result)


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What a config is composed of: overrides as text, and groups that objects of the user's have made."""

    overrides: tuple[str, ...]
    given: dict[str, dict[str, object]]

    def compose(self, config_dir: Path | None) -> TrainConfig:
        return compose_train(self.overrides, config_dir=config_dir, given=self.given)


def _settings(
    graph: str,
    dataset: Data,
    network: ChosenNetwork,
    packed: PackedDataset | None,
    overrides: Sequence[str],
    keywords: dict[str, object],
) -> _Settings:
    chosen = [f"run.graph={written('run.graph', graph)}"]
    given: dict[str, dict[str, object]] = {}
    if isinstance(dataset, str):
        chosen.append(f"dataset={written('dataset', dataset)}")
        if packed is not None:
            chosen.append(f"dataset.name={packed.manifest.name}")
    else:
        assert packed is not None, "what has no name is in memory"
        given["dataset"] = dataset_group(packed)
    more = [*to_overrides(TrainConfig, keywords), *overrides]
    if network.own is None:
        chosen.append(network.override)
    else:
        # The dry run needs the side of the images, which an override may say.
        standing_in = _Settings(overrides=(*chosen, *more), given={**given, "network": {"name": "-", "crops": [1]}})
        side = standing_in.compose(None).dataset.image_size
        given["network"] = network.group(side) or {}
    return _Settings(overrides=(*chosen, *more), given=given)


def _network_of(graph: Graph | None) -> list[str]:
    """What a graph says of its nodes.

    Raises:
        ConfigError: nothing.
        NetworkError: its file names code that nobody has named in this process.
    """
    if graph is None or not graph.spec.networks:
        raise ConfigError("train needs network=: a name, or a list of M names; only graphs that name networks do not")
    for name in graph.spec.networks:
        refuse_named_code(name, origin=f"the graph {graph.name}", remedy="give network=, the list of its networks")
    return list(graph.spec.networks)


def _method(graph: Graph, config: TrainConfig) -> GraphMethod:
    """What is trained, of a graph that was made in Python."""
    spec = trained_with(graph.spec, config.network, name=graph.name)
    return GraphMethod(graph=spec, name=graph.name, source=graph.provenance or {})


def _refuse_other_number(graph: Graph, config: TrainConfig) -> None:
    asked = config.run.num_nodes
    if asked not in (None, graph.num_nodes):
        raise GraphError(f"{graph.name} has {graph.num_nodes} nodes, asked for were {asked}: leave the number out")


def _refuse_unlearned(graph: Graph, config: TrainConfig) -> None:
    if graph.spec.unlearned_nodes and config.objective.unlearned == "reject":
        nodes = ", ".join(str(node + 1) for node in graph.spec.unlearned_nodes)
        raise GraphError(f"{graph.name}: no edge teaches node {nodes}: not allowed under objective.unlearned=reject")


def check_fits(graph: GraphSpec, network: ChosenNetwork, image_size: int) -> None:
    """Refuse a graph that cannot be trained with the given networks.

    Raises:
        GraphError: the number of networks is not that of the graph's nodes, or the graph compares attention maps, and
            the networks make none.
    """
    network.check_nodes(graph.num_nodes)
    designs = {edge.design for edge in graph.edges if edge.gate is not Gate.CUTOFF}
    wrong = sorted(design for design in designs if design.compares_maps)
    if wrong and not network.makes_maps(image_size):
        raise GraphError(
            f"the graph compares attention maps ({', '.join(wrong)}), and {network.name} makes none of 2x2 pixels or "
            "more: give a graph of the designs prob+ and prob-, or another network"
        )


@contextmanager
def interrupted_by() -> Iterator[StopSignals]:
    """While entered, signals that ask this process to stop only set a flag.

    In another thread than the main thread this has no effect, as Python lets none handle signals.
    """
    stop = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    with stop:
        yield stop


def _ignore(report: EpochReport) -> None:
    pass
