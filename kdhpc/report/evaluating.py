"""Finished runs evaluated again: their scores, and how well they tell their images from those of a second data set."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kdhpc.config.paths import packed_dir
from kdhpc.data.batches import Batch, EvalBatches
from kdhpc.data.decode import Target, fit_pixels
from kdhpc.data.packed import PackedDataset, PackedSplit
from kdhpc.data.progress import Progress
from kdhpc.errors import ConfigError, NetworkError
from kdhpc.final.finished import FinishedRun
from kdhpc.final.result import FinalResult, write_result
from kdhpc.final.scores import Detection
from kdhpc.final.scoring import ScoreSums, auroc, confidences
from kdhpc.networks.one import OneNetwork, OneOutput, build_one
from kdhpc.report.predictions import Predictor, device_here, runtime_of, warn_about_accuracy
from kdhpc.training.device import place
from kdhpc.training.device_errors import device_errors_in_words
from kdhpc.training.evaluation import Prediction, mean_ensemble
from kdhpc.training.pretrained import freeze_with

_LOG = logging.getLogger(__name__)
_FITTED_AT_ONCE = 1024
_AGAIN = "train it again"


@dataclass(frozen=True, kw_only=True)
class SecondImages:
    """A second data set, whose test images are to be told from those of runs."""

    name: str
    """What it is called by."""
    packed: PackedDataset
    """Its images."""

    @classmethod
    def prepared(cls, name: str) -> "SecondImages":
        """Those of a prepared data set.

        Raises:
            ConfigError: the name cannot be a data set's.
            DataError: it is not prepared, or damaged.
        """
        return cls(name=name, packed=PackedDataset.open(packed_dir(name)))


def is_evaluated(run: FinishedRun, second: SecondImages | None) -> bool:
    """Whether a run's result has scores already, also against a second data set if one is given."""
    scores = run.result.scores
    if scores is None or second is None:
        return scores is not None
    return any((one.dataset, one.checksum) == (second.name, second.packed.checksum) for one in scores.ood)


@device_errors_in_words()
def evaluate(run: FinishedRun, second: SecondImages | None, progress: Progress) -> FinalResult:
    """Score a run on the images that its accuracies are of, and write its result with the scores.

    The networks run in the precision of their training. What the result says beside the scores stays as it is.

    Args:
        run: The run.
        second: What its images are told from; None: nothing.
        progress: Counts images.

    Returns:
        The result.

    Raises:
        ConfigError: the images do not fit the run's config, or the second data set is the run's own.
        DataError: the images are not here, or are others.
        NetworkError: weights are damaged, or give logits that are not finite.
        StorageError: the file system refuses.
    """
    if second is not None and second.packed.checksum == run.dataset_checksum:
        raise ConfigError(f"--ood {second.name}: {run.origin} is scored on these images itself, give another data set")
    device = device_here()
    runtime = runtime_of(run, device)
    runtime.enforce()
    predict = _prediction_of(run, device)

    def predictions(batches: Iterable[Batch]) -> Iterator[tuple[Prediction, Tensor]]:
        for batch in batches:
            with torch.inference_mode(), runtime.autocast():
                prediction = predict(batch.images)
            if not all(logits.isfinite().all() for logits in prediction):
                raise NetworkError(f"{run.origin} gives logits that are not finite: it has no scores, leave it out")
            yield prediction, batch.labels
            progress.advance(len(batch.labels))

    own = Predictor(progress).batches(run)
    progress.start(f"{run.result.name} seed {run.result.seed}, {own.num_images:,} images", own.num_images)
    sums, confident = ScoreSums(run.result.num_nodes, device), []
    for prediction, labels in predictions(own):
        sums.add(prediction, labels)
        confident.append(confidences(prediction))
    for node, accuracy in enumerate(sums.accuracies[:-1]):
        warn_about_accuracy(run, node, accuracy)
    scores = sums.scores()
    assert scores is not None, "all logits are finite"
    kept = run.result.scores.ood if run.result.scores is not None else ()
    if second is not None:
        num_images = len(second.packed.test.labels)
        progress.start(f"{num_images:,} images of {second.name}", num_images)
        others = [confidences(prediction) for prediction, _ in predictions(_second_batches(run, second.packed, device))]
        found = _detection(second, torch.cat(confident, dim=1), torch.cat(others, dim=1))
        kept = (*(one for one in kept if one.dataset != found.dataset), found)
    result = dataclasses.replace(run.result, scores=dataclasses.replace(scores, ood=kept))
    write_result(result, run.paths.result)
    return result


def warn_of_other_form(run: FinishedRun, second: SecondImages) -> None:
    """Say that the images of a second data set are brought to another form."""
    own, other = run.open_images().manifest.image_shape, second.packed.manifest.image_shape
    if own != other:
        _LOG.warning("%s is %s: its images are made %s", second.name, _form(other), _form(own))


def _form(shape: tuple[int, int, int]) -> str:
    height, width, channels = shape
    return f"{height}x{width} {'grey' if channels == 1 else 'colour'}"


def _detection(second: SecondImages, confident_KN: Tensor, others_KN: Tensor) -> Detection:
    *nodes, ensemble = (auroc(own, other) for own, other in zip(confident_KN, others_KN, strict=True))
    return Detection(dataset=second.name, checksum=second.packed.checksum, nodes=tuple(nodes), ensemble=ensemble)


def _second_batches(run: FinishedRun, second: PackedDataset, device: torch.device) -> Iterator[Batch]:
    """The test images of a second data set, as the run's networks take them.

    Images of another size, or grey where the run's are in colour, are brought to the form in which the run's images are
    stored, as `kdhpc data prepare` does with files. Then they are cut and normalised as the run's are.
    """
    shape = run.open_images().manifest.image_shape
    at_once = len(second.test.labels) if second.manifest.image_shape == shape else _FITTED_AT_ONCE
    for start in range(0, len(second.test.labels), at_once):
        part = _fitted(second.test, slice(start, start + at_once), shape)
        yield from EvalBatches(
            part,
            None,
            run.config.dataset,
            batch_size=run.config.training.eval_batch_size,
            device=device,
            channels_last=run.config.device.channels_last,
        )


def _fitted(split: PackedSplit, part: slice, shape: tuple[int, int, int]) -> PackedSplit:
    """A part of a half, in that form; the half itself if it has it."""
    if split.images.shape[1:] == shape:
        return split
    height, width, channels = shape
    target = Target(height=height, width=width, channels=channels, resize=True)
    decoded = [fit_pixels(pixels, target) for pixels in split.images[part]]
    return PackedSplit(
        images=np.stack([one.pixels for one in decoded]), labels=split.labels[part], sizes=split.sizes[part]
    )


def _prediction_of(run: FinishedRun, device: torch.device) -> Callable[[Tensor], Prediction]:
    """What a run predicts as a whole."""
    num_classes = len(run.open_images().classes)
    if run.method.no_networks is None:
        networks = [run.network(node, num_classes, device) for node in range(run.result.num_nodes)]
        return lambda images: mean_ensemble(torch.stack([network(images).logits for network in networks]))
    one = _branches(run, num_classes, device)

    def predict(images: Tensor) -> Prediction:
        output: OneOutput = one(images)
        return Prediction(output.branch_logits_BNC.float(), output.ensemble_logits_NC.float())

    return predict


def _branches(run: FinishedRun, num_classes: int, device: torch.device) -> nn.Module:
    """The one network of a run of ONE, frozen."""
    run.check_weights()
    network: OneNetwork = build_one(run.config.network, num_branches=run.result.num_nodes, num_classes=num_classes)
    freeze_with(network, run.read_weights(0), origin=run.origin)
    return place(network, device, channels_last=run.config.device.channels_last)
