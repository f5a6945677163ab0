"""A dry run of a module that is not kdhpc's own: what it gives, and which layer's features make its attention map.

A layer's features are a grid over the image if a larger image makes a larger grid. So two dry runs, on images of two
sizes, tell grids from vectors, rows and columns from channels, and the tokens of patches from those of a prefix.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from kdhpc.errors import NetworkError, nearest
from kdhpc.networks.heads import attention_transfer_map

_LARGE_PX = 128
"""The second dry run's images have at least so many pixels a side: the deepest usual stride, 32, leaves 4."""
_SHOWN = 300
_NUM_IMAGES = 2


@dataclass(frozen=True, kw_only=True)
class MapSource:
    """Where an attention map comes from."""

    layer: str
    """Name of the layer that puts the features out."""
    layout: Literal["NCHW", "NHWC", "tokens"]
    """Of the features: rows and columns last, or before the channels; or (N, prefix + H W, D), row by row."""
    side: int
    """H and W, 2 or more."""
    prefix: int = 0
    """Tokens that come before those of the patches."""

    def attention_map(self, features: Tensor) -> Tensor:
        """The map (N, H, W), float32, of what the layer puts out; see `attention_transfer_map`."""
        if self.layout == "NHWC":
            features = features.permute(0, 3, 1, 2)
        elif self.layout == "tokens":
            patches_NDP = features[:, self.prefix :].transpose(1, 2)
            features = patches_NDP.reshape(*patches_NDP.shape[:2], self.side, self.side)
        return attention_transfer_map(features)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a dry run finds out about a module."""

    num_logits: int
    """Number of logits that the network gives: its number of classes."""
    source: MapSource | None
    """What makes the attention map; None: nothing does."""
    no_map: str = ""
    """Why nothing does."""

    @property
    def side(self) -> int:
        """Side of the map in pixels; 1 if there is none."""
        return 1 if self.source is None else self.source.side

    @property
    def layer(self) -> str | None:
        """Name of the layer whose features make the map; None: there is no map."""
        return None if self.source is None else self.source.layer


def probe(
    make: Callable[[int], nn.Module], image_size: int, *, label: str, layer: str | None = None, on_meta: bool = False
) -> Probe:
    """Run a module on two images of zeros, in evaluation mode, and again on larger ones.

    Args:
        make: Makes it, given the side of its images in pixels.
        image_size: Side of the images that it is for.
        label: What messages call it.
        layer: The layer whose features make the map; None: the last one that puts out a grid.
        on_meta: The module can be made and run without numbers.

    Raises:
        NetworkError: it cannot run on such images, gives no logits, or its layers have no sizes yet; or there is no
            such layer, or no grid comes from it.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta" if on_meta else "cpu"):
        torch.manual_seed(0)
        module = make(image_size)
        _check_weights(module, label)
        logits, shapes = _run(module, image_size, label)
        larger = image_size * 2 ** max(1, math.ceil(math.log2(_LARGE_PX / image_size)))
        there = _shapes_on_larger(make, module, larger, on_meta)
    if there == shapes:  # It resizes its images: this says nothing.
        there = {}
    names = {name for name, _ in module.named_modules() if name}
    if layer is not None and layer not in names:
        raise NetworkError(f"network.layer={layer} is no layer of {label}: {_near(layer, names)}")
    prefix: object = getattr(module, "num_prefix_tokens", None)
    found = _Search(shapes, there, larger // image_size, prefix if isinstance(prefix, int) else None)
    source, no_map = found.of_layer(layer) if layer is not None else found.last()
    if layer is not None and source is None:
        raise NetworkError(f"network.layer={layer} of {label} makes no attention map: {no_map}; leave it out")
    return Probe(num_logits=logits.shape[1], source=source, no_map=no_map)


class _Search:
    """Looks for grids in what layers put out, in the order of their last calls.

    Args:
        here: Shapes that the layers put out.
        there: For larger images; empty: the module takes no others.
        factor: By how much those are larger.
        prefix: Number of tokens that the module says it puts before those of patches; None: it says nothing.
    """

    def __init__(
        self, here: dict[str, torch.Size], there: dict[str, torch.Size], factor: int, prefix: int | None
    ) -> None:
        self._here, self._there, self._factor, self._prefix = here, there, factor, prefix

    def last(self) -> tuple[MapSource | None, str]:
        """The last grid. Not an earlier one if that has no map: it would say little about the network's decision."""
        for name in reversed(self._here):
            if self._there:
                if self._grows(name):
                    return self.of_layer(name)
            elif len(self._here[name]) >= 3 and max(self._here[name][2:]) > 1:
                return self.of_layer(name)
        return None, "no layer puts out a grid of features"

    def of_layer(self, name: str) -> tuple[MapSource | None, str]:
        """The grid of a layer; None: why there is none."""
        shape = self._here.get(name)
        if shape is None:
            return None, "it puts out no features (N, D, H, W), (N, H, W, D) or (N, tokens, D)"
        shown = f"layer {name} puts out {tuple(shape[1:])} for each image"
        layout, grid, prefix = self._grid(shape, self._there.get(name))
        if grid is None:
            return None, f"{shown}, which is no grid for certain"
        if grid[0] != grid[1] or grid[0] < 2:
            return None, f"{shown}, which is no square of 2x2 or more"
        return MapSource(layer=name, layout=layout, side=grid[0], prefix=prefix), ""

    def _grows(self, name: str) -> bool:
        here, there = self._here[name], self._there.get(name)
        return there is not None and len(here) == len(there) and here[1:] != there[1:]

    def _grid(
        self, here: torch.Size, there: torch.Size | None
    ) -> tuple[Literal["NCHW", "NHWC", "tokens"], tuple[int, int] | None, int]:
        if len(here) == 3:
            prefix = self._token_prefix(here[1], None if there is None or there[2:] != here[2:] else there[1])
            side = 0 if prefix is None else math.isqrt(here[1] - prefix)
            return "tokens", (side, side) if prefix is not None else None, prefix or 0
        if there is not None and here[3] == there[3] and here[1:3] != there[1:3]:
            return "NHWC", (here[1], here[2]), 0
        is_grid = there is None or (here[1] == there[1] and here[2:] != there[2:])
        return "NCHW", (here[2], here[3]) if is_grid else None, 0

    def _token_prefix(self, here: int, there: int | None) -> int | None:
        """How many of the tokens come before those of patches; None: not for certain."""
        prefix = self._prefix
        if there is not None:
            # Patches are factor^2 times as many, the prefix stays.
            prefix, rest = divmod(self._factor**2 * here - there, self._factor**2 - 1)
            is_certain = prefix in (0, 1) if self._prefix is None else prefix == self._prefix
            if rest or not is_certain:
                return None
        if prefix is None or prefix < 0 or here <= prefix:
            return None
        return prefix if math.isqrt(here - prefix) ** 2 == here - prefix else None


def _run(module: nn.Module, image_size: int, label: str) -> tuple[Tensor, dict[str, torch.Size]]:
    shapes: dict[str, torch.Size] = {}
    try:
        with _watched(module, shapes), torch.no_grad():
            output: object = module.eval()(torch.zeros(_NUM_IMAGES, 3, image_size, image_size))
    except NetworkError:
        raise
    except Exception as exc:  # Somebody else's code may fail in whatever way.
        shape = f"({_NUM_IMAGES}, 3, {image_size}, {image_size})"
        hint = "; of grey images, too, a network is given 3 channels" if _takes_grey(module, image_size) else ""
        raise NetworkError(f"{label} cannot run on images {shape}: {_in_short(exc)}{hint}") from exc
    logits = logits_of(output)
    is_logits = isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == _NUM_IMAGES
    if not is_logits or not logits.is_floating_point():
        shown = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        shown = shown.removeprefix("torch.")
        raise NetworkError(f"{label} gives {shown} for 2 images: it must give logits, floating point, (2, classes)")
    return logits, shapes


def _takes_grey(module: nn.Module, image_size: int) -> bool:
    try:
        with torch.no_grad():
            module(torch.zeros(_NUM_IMAGES, 1, image_size, image_size))
    except Exception:  # This only words an error: the one that is reported is the first.
        return False
    return True


def _shapes_on_larger(
    make: Callable[[int], nn.Module], module: nn.Module, larger: int, on_meta: bool
) -> dict[str, torch.Size]:
    """What the layers put out for larger images; empty: the module takes none."""
    shapes: dict[str, torch.Size] = {}
    try:
        other = make(larger) if on_meta else module.to("meta")
        with torch.device("meta"), _watched(other, shapes), torch.no_grad():
            other.eval()(torch.zeros(_NUM_IMAGES, 3, larger, larger))
    except Exception:  # A size of its own, or code that needs numbers.
        return {}
    return shapes


@contextmanager
def _watched(module: nn.Module, shapes: dict[str, torch.Size]) -> Iterator[None]:
    """Within it, the shape that each layer puts out in its last call is noted, in the order of those calls."""

    def look(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(layer: nn.Module, inputs: object, output: object) -> None:
            shapes.pop(name, None)
            if isinstance(output, Tensor) and output.ndim in (3, 4) and output.is_floating_point():
                shapes[name] = output.shape

        return hook

    handles = [part.register_forward_hook(look(name)) for name, part in module.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_weights(module: nn.Module, label: str) -> None:
    """Refuse weights that cannot be trained, or kept.

    Raises:
        NetworkError: with the first that cannot.
    """
    weights = dict(module.named_parameters())
    if not weights:
        raise NetworkError(f"{label} has no weights: nothing of it can learn")
    for name, weight in weights.items():
        if nn.parameter.is_lazy(weight):
            raise NetworkError(
                f"{label} has a lazy layer, {name} has no shape yet: give its size, as nn.Linear(512, ...) does"
            )
        if weight.dtype is not torch.float32:
            kind = str(weight.dtype).removeprefix("torch.")
            raise NetworkError(
                f"{label} has weights in {kind} ({name}): make them float32, device.precision says what it computes in"
            )
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise NetworkError(
                f"{label} keeps {name}, a {type(value).__name__}, in its state_dict: checkpoints hold tensors alone, "
                "make it a buffer (register_buffer)"
            )


def logits_of(output: object) -> Tensor:
    """The ``logits`` of an output that has several parts, as other libraries give it; else the output itself."""
    return cast(Tensor, getattr(output, "logits", output))


def _in_short(exc: Exception) -> str:
    return (" ".join(str(exc).split()) or type(exc).__name__)[:_SHOWN]


def _near(layer: str, names: set[str]) -> str:
    text = nearest(layer, names)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
