"""Networks that are not kdhpc's own: any module that gives logits can be the network of a node.

They come from libraries (``torchvision/NAME``, ``timm/NAME``), from a place in a user's code (``module:Name``), or, in
Python, as modules. A dry run finds the layer whose features make the attention map, see `kdhpc.networks.probing`. A
network without such a layer makes no map, and learns by designs that compare probabilities.
"""

import copy
import hashlib
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from kdhpc.config.library_names import near_hint
from kdhpc.config.networks import is_foreign, is_of_library, is_place
from kdhpc.errors import NetworkError
from kdhpc.interpreter import import_users
from kdhpc.networks.libraries import library_maker
from kdhpc.networks.names import resolve_by
from kdhpc.networks.network import Network
from kdhpc.networks.output import NetworkOutput
from kdhpc.networks.probing import MapSource, Probe, logits_of, probe
from kdhpc.networks.steadiness import check_steady, takes_channels_last

_LOG = logging.getLogger(__name__)

Maker = Callable[..., nn.Module]
"""A function that makes a new network. It is given ``num_classes`` if it has a parameter of that name."""
_LIBRARIES = ("torch", "torchvision", "timm", "builtins")
_ANY_CLASSES = 2
"""Given to a function that must have a number of classes, where it is not known yet."""


class OwnNetwork(Network):
    """A module that gives logits, as the network of a node.

    Args:
        module: Gives logits (N, C), or an object with such ``logits``, for images (N, 3, S, S).
        source: What makes its attention map; None: nothing does, and a single pixel stands in for it.
        takes_channels_last: Whether it runs in that memory format.
    """

    def __init__(self, module: nn.Module, source: MapSource | None, *, takes_channels_last: bool) -> None:
        nn.Module.__init__(self)  # It is not cut in two.
        self.module = module
        self.makes_map = source is not None
        self.takes_channels_last = takes_channels_last
        self._source = source
        self._kept = _Kept()
        if source is not None:
            module.get_submodule(source.layer).register_forward_hook(self._kept)

    def forward(self, images: Tensor) -> NetworkOutput:
        """The output for images (N, 3, S, S)."""
        logits = logits_of(self.module(images if self.takes_channels_last else images.contiguous()))
        features, self._kept.features = self._kept.features, None
        if self._source is None:
            # Not `len`: exported, it would be a number for good.
            return NetworkOutput(logits, logits.new_ones(logits.shape[0], 1, 1, dtype=torch.float32))
        if features is None:
            raise NetworkError(
                f"layer {self._source.layer} of {type(self.module).__name__} makes the attention map, and was not run "
                "in this step: give the name of one that always is, as network.layer"
            )
        return NetworkOutput(logits, self._source.attention_map(features))

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
        of_library: A library's: its dry run needs no numbers, and it takes a size of images and keeps no state of its
            own, so that this is not tried.
    """

    def __init__(self, makers: Sequence[Maker], *, label: str, of_library: bool = False) -> None:
        self._makers = tuple(makers)
        self._label = label
        self._of_library = of_library
        self._probes: dict[tuple[int, int, str | None], tuple[int | None, Probe]] = {}
        self._takes_channels_last: dict[tuple[int, int], bool] = {}

    @property
    def num_makers(self) -> int:
        """Number of functions: 1, or as many as nodes."""
        return len(self._makers)

    def probe(self, node: int, image_size: int, *, num_classes: int | None = None, layer: str | None = None) -> Probe:
        """What a dry run of a node's network finds.

        Raises:
            NetworkError: it is not a module, cannot run, or gives no logits.
        """
        at = (node % len(self._makers), image_size, layer)
        known = self._probes.get(at)
        # The number of classes is no matter of maps.
        if known is None or num_classes not in (None, known[0]):
            known = self._probes[at] = num_classes, self._probe(*at, num_classes)
        return known[1]

    def map_side(self, image_size: int, layer: str | None = None) -> int:
        """Side of the smallest map of all nodes, in pixels."""
        return min(self.probe(node, image_size, layer=layer).side for node in range(len(self._makers)))

    def make_maps(self, image_size: int, layer: str | None = None) -> bool:
        """Whether every node makes an attention map."""
        return all(self.probe(node, image_size, layer=layer).source is not None for node in range(len(self._makers)))

    def check(self, image_size: int, *, layer: str | None, num_classes: int | None, compares_maps: bool) -> None:
        """Refuse networks that cannot be trained on such images, once for all nodes.

        Args:
            image_size: Side of the images, in pixels.
            layer: The layer whose features make the map; None: it is found.
            num_classes: C; None: not known yet.
            compares_maps: Whether attention maps are compared.

        Raises:
            NetworkError: they cannot run, give no logits for these classes, keep a state that no checkpoint has, or
                make no attention map where one is compared.
        """
        for node in range(len(self._makers)):
            found = self.probe(node, image_size, num_classes=num_classes, layer=layer)
            if num_classes is not None and found.num_logits != num_classes:
                raise NetworkError(
                    f"{self._label} gives {found.num_logits} logits, the data set has {num_classes} classes: make it "
                    f"with {num_classes} outputs"
                )
            if compares_maps and found.source is None:
                raise NetworkError(
                    f"{self._label} makes no attention map on images of {image_size}x{image_size} ({found.no_map}): "
                    "use the designs prob+ and prob- alone (study.designs=[prob+,prob-], or a graph such as dml), or "
                    "another dataset.image_size or network.layer"
                )
            if not self._of_library and (node, image_size) not in self._takes_channels_last:
                self._takes_channels_last[node, image_size] = self._check_training(node, num_classes, image_size)

    def build(self, node: int, *, num_classes: int, image_size: int, layer: str | None = None) -> Network:
        """Build the network of a node, with initial weights from torch's global random state.

        Raises:
            NetworkError: as :meth:`probe`.
        """
        source = self.probe(node, image_size, num_classes=num_classes, layer=layer).source
        takes = self._takes_channels_last.get((node % len(self._makers), image_size), True)
        return OwnNetwork(self._make(node, num_classes, image_size), source, takes_channels_last=takes)

    def fingerprint(self) -> str:
        """A hash of the networks: layers, source code as far as it can be read, and weights that were given."""
        digest = hashlib.sha256()
        for node in range(len(self._makers)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                module = self._make(node, None, None)
            digest.update(repr(module).encode())
            for source in sorted({_source(type(part)) for part in module.modules()}):
                digest.update(source.encode())
            has_given_weights = isinstance(self._makers[node], _CopyOf)
            for name, tensor in module.state_dict().items():
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                if has_given_weights:
                    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:8]

    def _check_training(self, node: int, num_classes: int | None, image_size: int) -> bool:
        """Refuse a network that cannot be trained; and whether it runs in the memory format ``channels_last``."""
        # The weights of whoever builds a network now must not depend on whether it was tried before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = self._make(node, num_classes, image_size)
        check_steady(module, image_size, label=self._label)
        takes = takes_channels_last(module, image_size)
        if not takes:
            _LOG.info("%s cannot run in the memory format channels_last: it runs in contiguous memory", self._label)
        return takes

    def _probe(self, node: int, image_size: int, layer: str | None, num_classes: int | None) -> Probe:
        def make(size: int) -> nn.Module:
            return self._make(node, num_classes, size)

        if self._of_library:
            try:
                return probe(make, image_size, label=self._label, layer=layer, on_meta=True)
            except NetworkError as exc:
                # Some cannot be made without numbers. Others are not made with them: they may be huge.
                if "meta" not in f"{exc} {exc.__cause__}".lower():
                    raise
        return probe(make, image_size, label=self._label, layer=layer)

    def _make(self, node: int, num_classes: int | None, image_size: int | None) -> nn.Module:
        maker = self._makers[node % len(self._makers)]
        options = _options(maker, num_classes)
        if self._of_library:
            options["image_size"] = image_size
        try:
            module: object = maker(**options)
        except NetworkError:
            raise
        except Exception as exc:  # Somebody else's code may fail in whatever way.
            size = f" for images of {image_size}x{image_size}" if self._of_library else ""
            reason = " ".join(str(exc).split())[:300] or type(exc).__name__
            raise NetworkError(f"{self._label} cannot be made{size}: {reason}") from exc
        if not isinstance(module, nn.Module):
            raise NetworkError(f"{self._label} makes a {type(module).__name__}: it must make a torch.nn.Module")
        return module


OWN_NETWORKS: dict[str, OwnNetworks] = {}
"""The networks of this process that are not kdhpc's own, by name."""


def register(name: str, networks: OwnNetworks) -> None:
    """Make a name stand for these networks in this process."""
    OWN_NETWORKS[name] = networks


def own_networks(name: str) -> OwnNetworks | None:
    """The networks of that name; None: it is not the name of any but kdhpc's own.

    Names of libraries are made, and places in code are imported.

    Raises:
        NetworkError: there is no such network, or it cannot be imported.
    """
    if name not in OWN_NETWORKS and is_of_library(name):
        register(name, OwnNetworks([library_maker(name)], label=name, of_library=True))
    elif name not in OWN_NETWORKS and is_foreign(name):
        register(name, OwnNetworks([import_network(name)], label=name))
    return OWN_NETWORKS.get(name)


resolve_by(own_networks)


def refuse_named_code(name: str, *, origin: str, remedy: str) -> None:
    """Refuse to import what only a file names: its author could have any code on this machine run.

    Args:
        name: Of a network, in a file.
        origin: What messages call that file.
        remedy: What messages ask for.

    Raises:
        NetworkError: it is ``module:Name``, and nobody has named it in this process.
    """
    if is_place(name) and name not in OWN_NETWORKS:
        raise NetworkError(f"{origin} has the network {name}, code that is imported only if you name it: {remedy}")


def makes_maps(name: str, image_size: int, layer: str | None) -> bool:
    """Whether a network makes attention maps for images of that side, in pixels; kdhpc's own do."""
    own = own_networks(name)
    return own is None or own.make_maps(image_size, layer)


def which_module(name: str, node: int) -> int:
    """Which of a list of modules a node is, from 0; 0 where a name is that of one network, which all such nodes are."""
    own = own_networks(name)
    return 0 if own is None else node % own.num_makers


def import_network(name: str) -> Maker:
    """Import the callable that ``module:Name`` names.

    Raises:
        NetworkError: there is no such module, it has nothing of that name, or that is not callable.
    """
    module_name, _, attribute = name.partition(":")
    try:
        found: object = import_users(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as exc:  # A user's code may fail in whatever way.
        reason = " ".join(str(exc).split())[:300]
        if isinstance(exc, AttributeError) and isinstance(exc.obj, ModuleType) and exc.name is not None:
            reason += f"; {near_hint(exc.name, vars(exc.obj))}".rstrip("; ")
        elif not isinstance(exc, ImportError):
            reason = f"{type(exc).__name__}: {reason}"
        raise NetworkError(
            f"network {name!r} cannot be imported ({reason}): give module:Name of a callable that makes a module, in "
            "an installed package or a folder of PYTHONPATH"
        ) from exc
    if not callable(found) or isinstance(found, nn.Module):
        raise NetworkError(f"network {name!r} is a {type(found).__name__}: name a callable that makes a new module")
    return found


def register_imported(name: str) -> None:
    """If a name has the form ``module:Name``, import the network and register it. Other names are left alone.

    Raises:
        NetworkError: as :func:`import_network`.
    """
    if ":" in name:
        own_networks(name)


def copies_of(modules: Sequence[nn.Module]) -> list[Maker]:
    """Functions that make copies of these modules. The modules themselves are not changed."""
    return [_CopyOf(module) for module in modules]


@dataclass(frozen=True)
class _CopyOf:
    module: nn.Module

    def __call__(self) -> nn.Module:
        return copy.deepcopy(self.module)


def _options(maker: Maker, num_classes: int | None) -> dict[str, object]:
    """What a function is given: the number of classes, if it has a parameter of that name."""
    try:
        parameter = inspect.signature(maker).parameters.get("num_classes")
    except (TypeError, ValueError):  # Of code that says nothing about itself.
        return {}
    if parameter is None or parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
        return {}
    if num_classes is None:
        return {"num_classes": _ANY_CLASSES} if parameter.default is parameter.empty else {}
    return {"num_classes": num_classes}


def _source(kind: type) -> str:
    """The source code of a class. For classes of libraries, and where it cannot be read, its name."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__module__.split(".")[0] in _LIBRARIES:
        return name
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return name
