"""Attention maps and predictions of each node of a run for some images, and measures over all images.

Dimension suffixes: M nodes, L = M + 1 nodes and their ensemble, n images of one batch, C classes.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdhpc.config.schema import DatasetConfig
from kdhpc.data.progress import Progress
from kdhpc.data.transform import undo_normalisation
from kdhpc.errors import ConfigError, NetworkError, UsageError
from kdhpc.final.finished import FinishedRun
from kdhpc.networks.own import makes_maps, refuse_named_code
from kdhpc.report.examples import AttentionExample, AttentionExamples, NodePrediction, Overall
from kdhpc.report.predictions import Predictor, check_same_images, warn_about_accuracy
from kdhpc.training.device_errors import device_errors_in_words
from kdhpc.training.evaluation import mean_ensemble

_USUAL_IMAGES = 4
MAX_IMAGES = 24
"""Most images of a picture."""
_MAX_ROWS = 48
"""Of all runs of a picture together."""


def read_several(
    runs: Sequence[FinishedRun], *, num_images: int | None, indices: Sequence[int] | None, progress: Progress
) -> tuple[AttentionExamples, ...]:
    """As :func:`read_attention`, of several runs and the same images.

    Args:
        runs: Runs that are scored on the same images.
        num_images: As there.
        indices: As there.
        progress: As there, for one run after the other.

    Raises:
        ConfigError: as there; or the runs are not scored on the same images.
        UsageError: as there; or a run is named twice, or the picture would have too many rows.
        KdhpcError: as there.
    """
    folders = [run.paths.root.resolve() for run in runs]
    twice = next((run for at, run in enumerate(runs) if folders[at] in folders[:at]), None)
    if twice is not None:
        raise UsageError(f"{twice.origin} is named twice: give each run once")
    for run in runs:
        _check_shows_maps(run)
    check_same_images(runs)
    wanted = _USUAL_IMAGES if num_images is None else num_images
    num_rows = len(runs) * (wanted if indices is None else len(indices))
    if len(runs) > 1 and num_rows > _MAX_ROWS:
        raise UsageError(
            f"{len(runs)} runs with {num_rows // len(runs)} images are {num_rows} rows, a picture has {_MAX_ROWS} at "
            "most: give fewer runs, or fewer images"
        )
    first = read_attention(runs[0], num_images=num_images, indices=indices, progress=progress)
    chosen = [example.index for example in first.examples]
    rest = (read_attention(run, num_images=None, indices=chosen, progress=progress) for run in runs[1:])
    read = (first, *rest)
    names = [examples.name for examples in read]
    return tuple(
        examples if names.count(examples.name) == 1 else replace(examples, name=f"{examples.name} ({run.origin})")
        for run, examples in zip(runs, read, strict=True)
    )


@device_errors_in_words()
def read_attention(
    run: FinishedRun, *, num_images: int | None, indices: Sequence[int] | None, progress: Progress
) -> AttentionExamples:
    """Some images with each node's attention map and prediction, and each node's accuracy and entropy on all images.

    Args:
        run: A run of a method whose nodes make attention maps.
        num_images: Number of images to show if ``indices`` is None: the first image of each of so many classes;
            None: of four, or of all where there are fewer.
        indices: The images to show, counted from 0 among those that the run is scored on; None: see ``num_images``.
        progress: Counts images times networks.

    Raises:
        ConfigError: the run's nodes make no attention maps.
        DataError: the run's images are not here.
        DeviceError: the GPU's memory is used up, or this process cannot use the GPU any more.
        NetworkError: the run's weights are damaged.
        UsageError: there are no such images, or more than a picture has room for.
    """
    _check_shows_maps(run)
    predictor = Predictor(progress)
    classes = run.open_images().classes
    labels = predictor.batches(run).labels.tolist()
    chosen = _checked(indices, len(labels)) if indices is not None else _of_different_classes(labels, num_images)
    progress.start(f"{run.label} on {len(labels):,} images", len(run.weights) * len(labels))
    tally, seen, start = _Tally(len(run.weights)), {}, 0
    for batch, outputs in predictor.predict(run, range(len(run.weights))):
        nodes_MnC, ensemble_nC = mean_ensemble(torch.stack([output.logits for output in outputs]))
        logits_LnC = torch.cat([nodes_MnC, ensemble_nC.unsqueeze(0)])
        tally.add(logits_LnC, batch.labels)
        for index in set(chosen) & set(range(start, start + len(batch.labels))):
            at = index - start
            *nodes, ensemble = _node_predictions(logits_LnC[:, at], labels[index], classes)
            seen[index] = AttentionExample(
                index=index,
                label=classes[labels[index]],
                image=_shown(batch.images[at], run.config.dataset),
                maps=tuple(output.attention_map[at].float().cpu().numpy() for output in outputs),
                nodes=tuple(nodes),
                ensemble=ensemble,
            )
        start += len(batch.labels)
    *nodes_seen, ensemble_seen = tally.means()
    for node, overall in enumerate(nodes_seen):
        warn_about_accuracy(run, node, overall.accuracy)
    return AttentionExamples(
        name=run.label,
        num_images=len(labels),
        scored_on=run.result.scored_on,
        nodes=tuple(nodes_seen),
        ensemble=ensemble_seen,
        examples=tuple(seen[index] for index in chosen),
        networks=run.config.network.nodes,
    )


def _check_shows_maps(run: FinishedRun) -> None:
    """Refuse a run whose nodes have no attention maps to show.

    Raises:
        ConfigError: its method, or one of its networks, makes none.
    """
    if run.method.no_maps is not None:
        raise ConfigError(f"{run.origin} is a run of {run.method.title}, {run.method.no_maps}: give a run of a graph")
    network, side = run.config.network, run.config.dataset.image_size
    for one in map(network.only, network.distinct):
        refuse_named_code(one.name, origin=run.origin, remedy="give --network module:Name")
        if not makes_maps(one.name, side, one.layer):
            raise NetworkError(f"{run.origin}: {one.name} makes no attention map: nothing can be shown")


class _Tally:
    """Sums over images, for each of the M nodes and then their ensemble: correct predictions, and entropies."""

    def __init__(self, num_nodes: int) -> None:
        self._num_correct_L = torch.zeros(num_nodes + 1, dtype=torch.int64)
        self._entropy_L = torch.zeros(num_nodes + 1, dtype=torch.float64)
        self._num_images = 0

    def add(self, logits_LnC: Tensor, labels_n: Tensor) -> None:
        """Add one batch: logits (L, n, C) and labels (n,)."""
        self._num_correct_L += (logits_LnC.argmax(dim=2) == labels_n).sum(dim=1).cpu()
        self._entropy_L += _entropies(logits_LnC).sum(dim=1).cpu()
        self._num_images += len(labels_n)

    def means(self) -> list[Overall]:
        """Accuracy and mean entropy over all images, for each of L."""
        sums = zip(self._num_correct_L.tolist(), self._entropy_L.tolist(), strict=True)
        return [
            Overall(accuracy=100 * num_correct / self._num_images, entropy=entropy / self._num_images)
            for num_correct, entropy in sums
        ]


def _node_predictions(logits_LC: Tensor, label: int, classes: Sequence[str]) -> list[NodePrediction]:
    """The predictions of the M nodes and of their ensemble for one image."""
    predicted, entropies = logits_LC.argmax(dim=1).tolist(), _entropies(logits_LC).tolist()
    return [
        NodePrediction(predicted=classes[index], correct=index == label, entropy=entropy)
        for index, entropy in zip(predicted, entropies, strict=True)
    ]


def _shown(image: Tensor, config: DatasetConfig) -> NDArray[np.float32]:
    pixels: NDArray[np.float32] = undo_normalisation(image.unsqueeze(0), config)[0].permute(1, 2, 0).cpu().numpy()
    return pixels


def _entropies(logits: Tensor) -> Tensor:
    """Entropy of the probability distribution over the last dimension, in nats, float64."""
    log_p = torch.log_softmax(logits.double(), dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def _of_different_classes(labels: Sequence[int], num_images: int | None) -> tuple[int, ...]:
    first = {label: index for index, label in reversed(list(enumerate(labels)))}
    allowed = min(len(first), MAX_IMAGES)
    num_images = min(_USUAL_IMAGES, allowed) if num_images is None else num_images
    if num_images > allowed:
        raise UsageError(
            f"--images {num_images} is not allowed: 1 to {allowed}, as each is of another class, and a picture has "
            f"{MAX_IMAGES} rows at most; or choose with --indices"
        )
    return tuple(sorted(first.values())[:num_images])


def _checked(indices: Sequence[int], num_images: int) -> tuple[int, ...]:
    wrong = [index for index in indices if index >= num_images]
    if wrong:
        raise UsageError(f"--indices {wrong[0]} is not allowed: 0 to {num_images - 1}, the images that it is scored on")
    if len(indices) > MAX_IMAGES or len(set(indices)) < len(indices):
        raise UsageError(f"--indices are {len(indices)}: give at most {MAX_IMAGES}, each once")
    return tuple(indices)
