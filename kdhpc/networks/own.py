"""Users' own networks: any module that gives logits can be the network of a node.

A dry run finds the layer whose features make the attention map: the last one that puts out a square map (N, D, H, W) of
more than one pixel. A network without such a layer makes no map, and learns by designs that compare probabilities.
"""

import copy
import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhpc.errors import NetworkError
from kdhpc.networks.build import OWN_BUILDERS, Network, NodeOrder
from kdhpc.networks.heads import attention_transfer_map
from kdhpc.networks.names import OWN_MAP_SIDES
from kdhpc.networks.output import NetworkOutput

Maker = Callable[[], nn.Module]
"""A function that makes a new network."""
_LIBRARIES = ("torch", "torchvision", "timm", "builtins")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a dry run finds out about a module."""

    num_logits: int
    """Number of logits that the network gives: its number of classes."""
    layer: str | None
    """Name of the layer whose features make the attention map; None: there is none."""
    side: int
    """Side of that map in pixels; 1 if there is none."""


class OwnNetwork(Network):
    """A module that gives logits, as the network of a node.

    Args:
        module: Gives logits (N, C), or an object with such ``logits``, for images (N, 3, S, S).
        probe: What a dry run of such a module found.
        side: Side of the maps that the losses compare. The module's own map is averaged to this size.
    """

    def __init__(self, module: nn.Module, probe: Probe, side: int) -> None:
        nn.Module.__init__(self)  # It is not cut in two.
        self.module = module
        self.makes_map = probe.layer is not None
        self.keeps_size = False
        self._side = side
        self._kept = _Kept()
        if probe.layer is not None:
            module.get_submodule(probe.layer).register_forward_hook(self._kept)

    def forward(self, images: Tensor) -> NetworkOutput:
        """The output for images (N, 3, S, S)."""
        logits = _logits_of(self.module(images))
        features, self._kept.features = self._kept.features, None
        if features is None:
            return NetworkOutput(logits, logits.new_ones(len(logits), self._side, self._side, dtype=torch.float32))
        maps = attention_transfer_map(features)
        if not self.keeps_size and maps.shape[-1] != self._side:
            maps = F.adaptive_avg_pool2d(maps, self._side)
        return NetworkOutput(logits, maps)

    def exported_weights(self) -> dict[str, Tensor]:
        """Copies of the weights, by the module's own names. Files cannot hold weights that share memory."""
        return {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}

    def named_for_it(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a file by the names that they have in this network."""
        return {f"module.{name}": tensor for name, tensor in weights.items()}


class _Kept:
    """A forward hook that keeps what a layer puts out. A copy of the network copies it, too."""

    def __init__(self) -> None:
        self.features: Tensor | None = None

    def __call__(self, layer: nn.Module, inputs: object, output: Tensor) -> None:
        self.features = output


class OwnNetworks:
    """The networks of all nodes of a training.

    Args:
        makers: One function for each node, or a single one for all nodes.
        label: What error messages call the networks.
    """

    def __init__(self, makers: Sequence[Maker], *, label: str) -> None:
        self._makers = tuple(makers)
        self._label = label
        self._probes: dict[tuple[int, int], Probe] = {}

    @property
    def num_makers(self) -> int:
        """Number of functions: 1, or as many as nodes."""
        return len(self._makers)

    def probe(self, node: int, image_size: int) -> Probe:
        """What a dry run of a node's network finds.

        Raises:
            NetworkError: it is not a module, cannot run, or gives no logits.
        """
        at = (node % len(self._makers), image_size)
        if at not in self._probes:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                torch.manual_seed(0)
                self._probes[at] = _probe(self._make(node), image_size, self._label)
        return self._probes[at]

    def map_side(self, image_size: int) -> int:
        """Side of the maps that the losses compare, in pixels: that of the smallest map of all nodes."""
        return min(self.probe(node, image_size).side for node in range(len(self._makers)))

    def make_maps(self, image_size: int) -> bool:
        """Whether every node makes an attention map."""
        return all(self.probe(node, image_size).layer is not None for node in range(len(self._makers)))

    def build(self, order: NodeOrder) -> Network:
        """Build the network of a node, with initial weights from torch's global random state.

        Raises:
            NetworkError: as :meth:`probe`, or the network gives another number of logits than there are classes.
        """
        probe = self.probe(order.node, order.image_size)
        if probe.num_logits != order.num_classes:
            raise NetworkError(
                f"{self._label} gives {probe.num_logits} logits, the data set has {order.num_classes} classes: make it "
                f"with {order.num_classes} outputs"
            )
        return OwnNetwork(self._make(order.node), probe, self.map_side(order.image_size))

    def fingerprint(self) -> str:
        """A hash of the networks: layers, source code as far as it can be read, and weights that were given."""
        digest = hashlib.sha256()
        for node in range(len(self._makers)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                module = self._make(node)
            digest.update(repr(module).encode())
            for source in sorted({_source(type(part)) for part in module.modules()}):
                digest.update(source.encode())
            has_given_weights = isinstance(self._makers[node], _CopyOf)
            for name, tensor in module.state_dict().items():
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                if has_given_weights:
                    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:8]

    def _make(self, node: int) -> nn.Module:
        module: object = self._makers[node % len(self._makers)]()
        if not isinstance(module, nn.Module):
            raise NetworkError(f"{self._label} makes a {type(module).__name__}: it must make a torch.nn.Module")
        return module


def register(name: str, networks: OwnNetworks) -> None:
    """Make a name stand for these networks in this process."""
    OWN_MAP_SIDES[name] = networks.map_side
    OWN_BUILDERS[name] = networks.build


def import_network(name: str) -> Maker:
    """Import the callable that ``module:Name`` names.

    Raises:
        NetworkError: there is no such module, it has nothing of that name, or that is not callable.
    """
    module_name, _, attribute = name.partition(":")
    try:
        found: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as exc:
        raise NetworkError(
            f"network {name!r} cannot be imported ({' '.join(str(exc).split())}): give module:Name of a callable that "
            "makes a module, in an installed package or a folder of PYTHONPATH"
        ) from exc
    if not callable(found) or isinstance(found, nn.Module):
        raise NetworkError(f"network {name!r} is a {type(found).__name__}: name a callable that makes a new module")
    return found


def register_imported(name: str) -> None:
    """If a name has the form ``module:Name``, import the network and register it. Other names are left alone.

    Raises:
        NetworkError: as :func:`import_network`.
    """
    if ":" in name and name not in OWN_BUILDERS:
        register(name, OwnNetworks([import_network(name)], label=name))


def copies_of(modules: Sequence[nn.Module]) -> list[Maker]:
    """Functions that make copies of these modules. The modules themselves are not changed."""
    return [_CopyOf(module) for module in modules]


@dataclass(frozen=True)
class _CopyOf:
    module: nn.Module

    def __call__(self) -> nn.Module:
        return copy.deepcopy(self.module)


def _probe(module: nn.Module, image_size: int, label: str) -> Probe:
    maps: list[tuple[str, int]] = []

    def look(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(layer: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.is_floating_point():
                height, width = output.shape[2:]
                if height == width > 1:
                    maps.append((name, height))

        return hook

    handles = [part.register_forward_hook(look(name)) for name, part in module.named_modules() if name]
    if not any(True for _ in module.parameters()):
        raise NetworkError(f"{label} has no weights: nothing of it can learn")
    module.eval()
    try:
        with torch.no_grad():
            output: object = module(torch.zeros(2, 3, image_size, image_size))
    except Exception as exc:  # A user's code may fail in whatever way.
        shape = f"(2, 3, {image_size}, {image_size})"
        raise NetworkError(f"{label} cannot run on images {shape}: {' '.join(str(exc).split())[:300]}") from exc
    finally:
        for handle in handles:
            handle.remove()
    logits = _logits_of(output)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2 or not logits.is_floating_point():
        shown = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        shown = shown.removeprefix("torch.")
        raise NetworkError(f"{label} gives {shown} for 2 images: it must give logits, floating point, (2, classes)")
    layer, side = maps[-1] if maps else (None, 1)
    return Probe(num_logits=logits.shape[1], layer=layer, side=side)


def _logits_of(output: object) -> Tensor:
    """The ``logits`` of an output that has several parts, as other libraries give it; else the output itself."""
    return cast(Tensor, getattr(output, "logits", output))


def _source(kind: type) -> str:
    """The source code of a class. For classes of libraries, and where it cannot be read, its name."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__module__.split(".")[0] in _LIBRARIES:
        return name
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return name
