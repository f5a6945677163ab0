"""A finished run as a module that predicts the classes of new images and shows attention maps."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from kdhpc.api.data import Array, as_pixels, is_tensor
from kdhpc.api.networks import listed_names, name_again
from kdhpc.config.networks import NETWORKS, is_of_library
from kdhpc.config.paths import RunPaths
from kdhpc.config.schema import DatasetConfig
from kdhpc.data.decode import Decoded, PillowImage, Target, decode, decode_image, fit_pixels, is_image
from kdhpc.data.transform import Transform
from kdhpc.errors import ConfigError, DataError, NetworkError
from kdhpc.final.finished import FinishedRun, open_finished
from kdhpc.final.found import seed_folders
from kdhpc.final.model import ModelCard, read_model_card
from kdhpc.networks.build import exported_weights
from kdhpc.networks.one import OneNetwork, build_one
from kdhpc.networks.output import NetworkOutput
from kdhpc.networks.own import OWN_NETWORKS, OwnNetwork
from kdhpc.report.predictions import device_here, runtime_of
from kdhpc.training.evaluation import mean_ensemble
from kdhpc.training.pretrained import freeze_with
from kdhpc.training.runtime import Runtime

if TYPE_CHECKING:
    from kdhpc.api.training import Run

_LOG = logging.getLogger(__name__)
_CLASSIFIERS = ("head.fc.bias", "heads.0.fc.bias", "fc.bias")
"""Names of the classifier's bias in files of weights. Its length is the number of classes."""

Images: TypeAlias = Array | str | Path | PillowImage | Sequence[str | Path | PillowImage]
"""uint8 (N, 1 or 3, H, W), or files, or images of Pillow's."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Makes the networks' input from images, as when the run was scored: resize, crop, normalise."""

    card: ModelCard
    """Names of the classes, and the shape of stored images."""
    config: DatasetConfig
    """Config of the run's data set, for crop and normalisation."""
    channels_last: bool = False
    """Whether the batches have torch's memory format ``channels_last``."""

    @property
    def image_size(self) -> int:
        """S, the side of the networks' input, in pixels."""
        return self.config.image_size

    def __call__(
        self, images: Images, *, batch_size: int = 256, device: torch.device | None = None
    ) -> Iterator[Tensor]:
        """Batches of the networks' input, float32 (n, 3, S, S).

        Images of another size than the run's own are resized to it, as ``kdhpc data prepare`` does.

        Raises:
            DataError: an image that cannot be read, or a tensor of a wrong type, shape or range.
            StorageError: the file system refuses.
        """
        device = device or torch.device("cpu")
        height, width, channels = self.card.image_shape
        target = Target(height=height, width=width, channels=channels, resize=True)
        transform = Transform(self.config, (height, width), device=device, channels_last=self.channels_last)
        for decoded in _in_batches(_decoded(images, target), batch_size):
            pixels = torch.from_numpy(np.stack([one.pixels for one in decoded])).to(device)
            sizes = torch.tensor([(one.height, one.width) for one in decoded], dtype=torch.int32)
            yield transform(pixels, transform.centre(sizes).to(device))


class Ensemble(nn.Module):
    """The networks of a finished run, frozen, in evaluation mode.

    The ensemble's logits are the mean of the nodes' logits. ``ensemble.to("cuda")`` moves it to a GPU; images are moved
    to the same device.
    """

    def __init__(self, nodes: Sequence[nn.Module], preprocessing: Preprocessing, run: FinishedRun) -> None:
        super().__init__()
        self.nodes = nn.ModuleList(nodes)
        self.preprocessing = preprocessing
        self.run = run
        self._runtime: Runtime | None = None
        self.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self.preprocessing.card.classes

    def forward(self, batch: Tensor) -> Tensor:
        """The ensemble's logits, float32 (N, C), for a batch that :attr:`preprocessing` has made, (N, 3, S, S)."""
        first = self.nodes[0]
        if isinstance(first, OneNetwork):
            logits: Tensor = first(batch).ensemble_logits_NC
            return logits.float()
        return mean_ensemble(torch.stack([output.logits for output in self._outputs(batch)])).ensemble_logits_NC

    def predict(self, images: Images, *, batch_size: int = 256) -> Tensor:
        """The class probabilities of the ensemble.

        Args:
            images: Files, images of Pillow's, or a tensor or array, uint8 (N, 1 or 3, H, W).
            batch_size: Number of images in a forward pass.

        Returns:
            float32 (N, C), on the CPU; rows sum to 1, columns are :attr:`classes`.

        Raises:
            DataError: an image that cannot be read, or a tensor of a wrong type, shape or range.
            StorageError: the file system refuses.
        """
        batches = self._batches(images, batch_size)
        with torch.no_grad(), self._autocast():
            return torch.cat([self(batch).softmax(dim=1).cpu() for batch in batches])

    def attention(self, images: Images, *, batch_size: int = 256) -> Tensor:
        """The attention maps of all nodes.

        Args:
            images: As for :meth:`predict`.
            batch_size: Number of images in a forward pass.

        Returns:
            float32 (N, M, h, w), 0 or more, on the CPU. Maps of the nodes that are smaller than those of another node
            are resized to them.

        Raises:
            DataError, StorageError: as :meth:`predict`.
            NetworkError: a node makes no attention map.
        """
        without = [
            index
            for index, node in enumerate(self.nodes, start=1)
            if isinstance(node, OneNetwork) or (isinstance(node, OwnNetwork) and not node.makes_map)
        ]
        if without:
            raise NetworkError(f"{self.run.origin}: node {without[0]} makes no attention map: nothing can be shown")
        batches = self._batches(images, batch_size)
        with torch.no_grad(), self._autocast():
            return torch.cat([_side_by_side(self._outputs(batch)).cpu() for batch in batches])

    def node_weights(self, node: int) -> dict[str, Tensor]:
        """Weights of a node, which counts from 0, by the names in its file of weights.

        If the network is one of torchvision's, these are torchvision's names.
        """
        return exported_weights(self.nodes[node])

    def _outputs(self, batch: Tensor) -> list[NetworkOutput]:
        return [node(batch) for node in self.nodes]

    def _batches(self, images: Images, batch_size: int) -> Iterator[Tensor]:
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} is not allowed: 1 or more images")
        return self.preprocessing(images, batch_size=batch_size, device=self._device)

    def _autocast(self) -> torch.autocast:
        """The precision in which the run was scored, as far as the device has it. It is found out once a device."""
        if self._runtime is None or self._runtime.device != self._device:
            self._runtime = runtime_of(self.run, self._device)
        self._runtime.enforce()  # Another run may have been used since.
        return self._runtime.autocast()

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device


def load(run: "Run | str | Path", *, network: object = None, device: str | torch.device | None = None) -> Ensemble:
    """The ensemble of a finished run.

    Args:
        run: What :func:`kdhpc.train` returned, or the folder of a run: ``runs/train/NAME/seed<k>``.
        network: What was given to ``train`` as ``network``, if that was a module of your own and this is another
            process. Code that a run's files name is never imported.
        device: Device for the ensemble; None: the GPU if there is one, else the CPU.

    Returns:
        A module in evaluation mode. It no longer needs the data set or the folder.

    Raises:
        ConfigError: there is no finished run in the folder, or it diverged.
        DataError: the run's result cannot be read.
        NetworkError: weights are damaged, or ``network`` is missing or makes other modules than the run has.
        StorageError: the file system refuses.

    >>> import kdhpc, torch
    >>> images, labels = torch.zeros(40, 3, 16, 16, dtype=torch.uint8), torch.arange(40) % 2
    >>> images[labels == 1] = 255
    >>> run = kdhpc.train(
    ...     kdhpc.dml(2), dataset=(images, labels), network="resnet8", crops=[3], epochs=1, batch_size=8
    ... )
    >>> ensemble = kdhpc.load(run)
    >>> ensemble.predict(images[:4]).shape, ensemble.attention(images[:4]).shape, ensemble.classes
    (torch.Size([4, 2]), torch.Size([4, 2, 4, 4]), ('0', '1'))
    """
    folder = Path(run) if isinstance(run, (str, Path)) else run.folder
    finished = open_finished(_only_seed(folder), origin=str(folder))
    _settle_network(finished, network)
    card = _card(finished)
    target = device_here() if device is None else torch.device(device)
    if finished.method.no_networks is not None:
        nodes: list[nn.Module] = [_one(finished, len(card.classes), target)]
    else:
        count = len(finished.weights)
        nodes = [finished.network(node, len(card.classes), target) for node in range(count)]
    preprocessing = Preprocessing(
        card=card, config=finished.config.dataset, channels_last=finished.config.device.channels_last
    )
    return Ensemble(nodes, preprocessing, finished)


def _only_seed(folder: Path) -> Path:
    """The folder of a run: the given one, or, if that holds exactly one finished run, the folder of that run."""
    done = [path for path in seed_folders(folder) if RunPaths(path).result.is_file()]
    return done[0] if len(done) == 1 and not RunPaths(folder).result.exists() else folder


def _settle_network(run: FinishedRun, network: object) -> None:
    config = run.config.network
    own = [name for name in config.distinct if name not in NETWORKS and not is_of_library(name)]
    if network is not None and not own:
        raise NetworkError(f"{run.origin} has the network {config.name}, one of kdhpc's: leave network= out")
    if network is not None and config.nodes:
        if listed_names(network) != config.nodes:
            raise NetworkError(f"{run.origin} has the networks {', '.join(config.nodes)}: give network= as that list")
    elif network is not None:
        name_again(config.name, network)
    elif missing := [name for name in own if name not in OWN_NETWORKS]:
        raise NetworkError(
            f"{run.origin} was trained with a network of somebody's own, {missing[0]}, which this process does not "
            "know: give network=, as to kdhpc.train"
        )


def _card(run: FinishedRun) -> ModelCard:
    """The run's model card. A run from before there were such cards gets its data set's, or else numbers as classes."""
    card = read_model_card(run.paths.model)
    if card is not None:
        return card
    try:
        return ModelCard.of(run.open_images().manifest)
    except DataError:
        weights = run.read_weights(0)
        biases = [weights[name] for name in _CLASSIFIERS if name in weights]
        if not biases:
            raise
        _LOG.warning("%s does not say its classes, and its data set is not here: they are numbers", run.origin)
        dataset = run.config.dataset
        photographs = dataset.augmentation == "resized_crop"
        side = dataset.resize if photographs else dataset.image_size
        classes = tuple(map(str, range(len(biases[0]))))
        return ModelCard(classes=classes, image_shape=(side, side, 3), resized=photographs)


def _one(run: FinishedRun, num_classes: int, device: torch.device) -> OneNetwork:
    run.check_weights()
    network = build_one(run.config.network, num_branches=run.result.num_nodes, num_classes=num_classes)
    freeze_with(network, run.read_weights(0), origin=run.origin)
    return network.to(device)


def _side_by_side(outputs: Sequence[NetworkOutput]) -> Tensor:
    """The maps of all nodes, (n, M, h, w), resized to the largest of them."""
    maps = [output.attention_map.float() for output in outputs]
    largest = max((tuple(one.shape[1:]) for one in maps), key=lambda size: size[0] * size[1])
    return torch.stack([_resized(one, largest) for one in maps], dim=1)


def _resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(maps.shape[1:]) == size:
        return maps
    return F.interpolate(maps.unsqueeze(1), size=size, mode="bilinear", align_corners=False).squeeze(1)


def _decoded(images: object, target: Target) -> Iterator[Decoded]:
    """Yield each image in the form in which the run's data set stores images."""
    if is_tensor(images):
        for pixels in as_pixels(images, "the images"):
            yield fit_pixels(pixels, target)
        return
    single = isinstance(images, (str, Path)) or is_image(images)
    if not single and not isinstance(images, Iterable):
        raise DataError(f"images are a {type(images).__name__}: give files, images of Pillow's, or a tensor")
    each = [images] if single else list(images)  # type: ignore[call-overload]
    if not each:
        raise DataError("there are no images: give one or more")
    for index, image in enumerate(each):
        yield _one_image(image, index, target)


def _one_image(image: object, index: int, target: Target) -> Decoded:
    name = str(image) if isinstance(image, (str, Path)) else f"image {index}"
    try:
        if isinstance(image, (str, Path)):
            return decode(Path(image), target)
        if is_image(image):
            return decode_image(image, target)
    except DataError as exc:
        raise DataError(f"{name}: {exc}") from exc
    if isinstance(image, (Tensor, np.ndarray)) and image.ndim == 3:
        pixels: NDArray[np.uint8] = as_pixels(image[None], name)[0]
        return fit_pixels(pixels, target)
    raise DataError(f"{name} is a {type(image).__name__}: give files, images of Pillow's, or a tensor")


def _in_batches(images: Iterator[Decoded], size: int) -> Iterator[list[Decoded]]:
    batch: list[Decoded] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
