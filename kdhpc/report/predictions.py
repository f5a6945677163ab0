"""Predictions of the networks of finished runs, for the images that the runs are scored on."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdhpc.config.document import parse_group
from kdhpc.config.schema import DeviceConfig
from kdhpc.data.batches import Batch, EvalBatches
from kdhpc.data.progress import Progress
from kdhpc.errors import ConfigError, NetworkError
from kdhpc.final.assembly import scored_batches
from kdhpc.final.finished import FinishedRun
from kdhpc.networks.output import NetworkOutput
from kdhpc.training.device_errors import device_errors_in_words
from kdhpc.training.runtime import Runtime, resolve_runtime
from kdhpc.words import counted

_LOG = logging.getLogger(__name__)
_TOLERANCE = 0.5
"""Percentage points. Another device rounds differently, so a few images are predicted differently."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The logits of all networks. Suffixes: M networks, N images, C classes."""

    networks: tuple[str, ...]
    """Names of the M networks."""
    logits_MNC: Tensor
    """(M, N, C), float32, on the CPU."""
    labels_N: Tensor
    """(N,) class indices, int64, on the CPU."""


@dataclass(frozen=True, kw_only=True)
class ChosenNetworks:
    """Some networks of one run."""

    run: FinishedRun
    """The run."""
    nodes: tuple[int, ...]
    """The nodes whose networks were chosen, counted from 0."""


class Predictor:
    """Runs the networks of finished runs on the images that the runs are scored on.

    A run may have been trained on another machine, or on another kind of device.

    The device, and what each precision means on it, are found out once for all runs.

    Args:
        progress: Counts images times networks.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._device = device_here()
        self._runtimes: dict[str, Runtime] = {}
        self._key: object = None
        self._batches: EvalBatches | None = None

    def batches(self, run: FinishedRun) -> EvalBatches:
        """Batches of the images that a run is scored on. Runs with the same images share the object.

        Raises:
            ConfigError: the images do not fit the run's config.
            DataError: the images are not here.
        """
        config = run.config
        key = (config.dataset, config.run.split, config.training.eval_batch_size, config.device.channels_last)
        if self._batches is None or key != self._key:
            self._key = key
            self._batches = scored_batches(config, run.open_images(), self._device)
        return self._batches

    def predict(self, run: FinishedRun, nodes: Sequence[int]) -> Iterator[tuple[Batch, list[NetworkOutput]]]:
        """Yield each batch with the outputs of some nodes of the run (counted from 0).

        Raises:
            NetworkError: the weights are damaged, or give logits that are not finite.
            StorageError: the file system refuses.
        """
        runtime = self._runtime(run)
        num_classes = len(run.open_images().classes)
        networks = [run.network(node, num_classes, runtime.device) for node in nodes]
        for batch in self.batches(run):
            with torch.inference_mode(), runtime.autocast():
                outputs: list[NetworkOutput] = [network(batch.images) for network in networks]
            for node, output in zip(nodes, outputs, strict=True):
                if not output.logits.isfinite().all():
                    raise NetworkError(f"{run.origin}: node {node + 1} gives logits that are not finite: leave it out")
            yield batch, outputs
            self._progress.advance(len(networks) * len(batch.labels))

    def _runtime(self, run: FinishedRun) -> Runtime:
        precision = _precision_of(run, self._device)
        if precision not in self._runtimes:
            self._runtimes[precision] = runtime_of(run, self._device)
        runtime = self._runtimes[precision]
        runtime.enforce()
        return runtime


def choose_networks(runs: Sequence[FinishedRun]) -> tuple[ChosenNetworks, ...]:
    """All networks of some runs, without duplicates. A warning names the duplicates.

    Two runs may have the same network. An independent network depends only on its seed and its node, and not on the
    number of nodes; and a frozen network may be in many runs. Two equal networks would be a pair without differences.

    Raises:
        ConfigError: a run's nodes have no networks of their own, or the runs are not scored on the same images.
        NetworkError: a file of weights is missing.
    """
    for run in runs:
        if run.method.no_networks is not None:
            raise ConfigError(f"{run.origin} is a run of {run.method.title}, {run.method.no_networks}: leave it out")
    check_same_images(runs)
    chosen: list[ChosenNetworks] = []
    twice: list[str] = []
    seen: set[str] = set()
    for run in runs:
        digests = [run.weights_digest(node) for node in range(len(run.weights))]
        nodes = [node for node, digest in enumerate(digests) if digest not in {*seen, *digests[:node]}]
        twice += [_name(run, node) for node in range(len(digests)) if node not in nodes]
        seen.update(digests)
        if nodes:
            chosen.append(ChosenNetworks(run=run, nodes=tuple(nodes)))
    if twice:
        _LOG.warning("left out, the same network as another one: %s", ", ".join(twice))
    return tuple(chosen)


@device_errors_in_words()
def read_predictions(chosen: Sequence[ChosenNetworks], progress: Progress, *, compares: bool = True) -> Predictions:
    """The logits of the chosen networks for all images that they are scored on.

    Args:
        chosen: Networks of runs that are scored on the same images.
        progress: Counts images times networks.
        compares: Whether to warn of networks that score otherwise than their results say.

    Raises:
        ConfigError: the images do not fit a run's config.
        DataError: the images are not here.
        DeviceError: the GPU's memory is used up, or this process cannot use the GPU any more.
        NetworkError: weights are damaged.
    """
    predictor = Predictor(progress)
    labels_N = predictor.batches(chosen[0].run).labels.cpu()
    names = [_name(choice.run, node) for choice in chosen for node in choice.nodes]
    progress.start(f"{counted(len(names), 'network')} on {counted(len(labels_N), 'image')}", len(names) * len(labels_N))
    logits_MNC = torch.empty(len(names), len(labels_N), len(chosen[0].run.open_images().classes))
    first = 0
    for choice in chosen:
        own_mNC, start = logits_MNC[first : first + len(choice.nodes)], 0
        for batch, outputs in predictor.predict(choice.run, choice.nodes):
            own_mNC[:, start : start + len(batch.labels)] = torch.stack([output.logits for output in outputs])
            start += len(batch.labels)
        for node, logits_NC in zip(choice.nodes, own_mNC, strict=True) if compares else ():
            right = int((logits_NC.argmax(dim=1) == labels_N).sum())
            warn_about_accuracy(choice.run, node, 100 * right / len(labels_N))
        first += len(choice.nodes)
    return Predictions(networks=tuple(names), logits_MNC=logits_MNC, labels_N=labels_N)


def device_here() -> torch.device:
    """The device that reports compute on: the GPU if this machine has one, else the CPU."""
    return resolve_runtime(DeviceConfig()).device


def warn_about_accuracy(run: FinishedRun, node: int, accuracy: float) -> None:
    """Warn if a node's accuracy here differs from the one in its result.

    Args:
        run: The run that the node belongs to.
        node: Number of the node, from 0.
        accuracy: Top-1 accuracy that was measured here, in percent.
    """
    before = run.node_accuracies[node]
    if abs(accuracy - before) > _TOLERANCE:
        _LOG.warning("%s: node %d scores %.2f %% here, its result says %.2f %%", run.origin, node + 1, accuracy, before)


def _name(run: FinishedRun, node: int) -> str:
    return f"{run.result.name}/seed{run.result.seed}/node{node + 1}"


def runtime_of(run: FinishedRun, device: torch.device) -> Runtime:
    """The runtime for a run's networks: a device, in the precision of the run's training.

    It changes nothing yet: see `Runtime.enforce`. Where the device does not have that precision, a warning says so, and
    the precision is float32.
    """
    precision = _precision_of(run, device)
    config = parse_group("device", DeviceConfig, {"precision": precision})
    try:
        return resolve_runtime(config, device=device)
    except ConfigError as exc:
        _LOG.warning("%s was trained in %s: its networks run in float32 here (%s)", run.origin, precision, exc)
        return resolve_runtime(replace(config, precision="float32"), device=device)


def _precision_of(run: FinishedRun, device: torch.device) -> str:
    """What a run was trained in; of a run from before its result said so, what its config asked for.

    A CPU meant float32 by ``auto`` then.
    """
    if run.result.precision is not None:
        return run.result.precision
    asked = run.config.device.precision
    return "float32" if asked == "auto" and device.type == "cpu" else asked


def check_same_images(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs that are not scored on the same images, cropped and resized alike.

    Raises:
        ConfigError: two are not; the message says in what they differ.
    """
    first = _scored_on(runs[0])
    for run in runs[1:]:
        for key, value in _scored_on(run).items():
            if value != first[key]:
                raise ConfigError(
                    f"{runs[0].origin} and {run.origin} are not scored on the same images ({key} {_short(first[key])} "
                    f"and {_short(value)}): give runs that are"
                )


def _scored_on(run: FinishedRun) -> dict[str, object]:
    """The settings that decide which images a run is scored on, and how they are cropped and resized."""
    dataset, split = run.config.dataset, run.config.run.split
    search = (dataset.validation_fraction, dataset.subset, dataset.split_seed) if split == "search" else None
    return {
        "images": run.dataset_checksum,
        "dataset.image_size": dataset.image_size,
        "dataset.augmentation": dataset.augmentation,
        "dataset.resize": dataset.resize if dataset.augmentation == "resized_crop" else None,
        "run.split": split,
        "search split": search,
    }


def _short(value: object) -> str:
    return str(value)[:16] if isinstance(value, str) else str(value)
