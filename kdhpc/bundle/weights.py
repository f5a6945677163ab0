"""Networks as files of weights: safetensors with a document that says how to build them, and timm's own layout."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from kdhpc.bundle.preprocessing import channel_values
from kdhpc.bundle.subject import Subject
from kdhpc.config.networks import NETWORKS
from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import BundleError, ConfigError
from kdhpc.files.json_text import strict_json
from kdhpc.files.writing import write_whole
from kdhpc.networks.libraries import timm_options, torchvision_options

_FORMAT, _VERSION = "kdhpc-weights", 1
_ALIKE_IN_TIMM = frozenset(
    (
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"),
        *("wide_resnet50_2", "wide_resnet101_2"),
    )
)
"""Networks of torchvision's with whose weights timm's network of the same name computes the same."""


@dataclass(frozen=True, kw_only=True)
class LibraryName:
    """A network as a library builds it."""

    package: str
    """``torchvision`` or ``timm``."""
    name: str
    """There."""
    options: Mapping[str, object]
    """What it is given beside the number of classes."""


def library_of(name: str, image_size: int) -> LibraryName | None:
    """The library that has a network whose weights have the same names there; None: none is known to.

    Args:
        name: Of a node's network.
        image_size: S, in pixels.
    """
    package, _, own = name.partition("/")
    if package == "torchvision":
        return LibraryName(package=package, name=own, options=torchvision_options(own, image_size))
    if package == "timm":
        return LibraryName(package=package, name=_without_tag(own), options=timm_options(own, image_size))
    kind = NETWORKS.get(name)
    if kind is not None and kind.family == "imagenet" and not kind.attention_branch:
        return LibraryName(package="torchvision", name=name, options={})
    return None


def timm_name(name: str) -> str | None:
    """The name in timm of a network whose weights timm can load; None: it is not known there."""
    package, slash, own = name.partition("/")
    if package == "timm":
        return _without_tag(own)
    alike = (own if package == "torchvision" else "") if slash else name
    return alike if alike in _ALIKE_IN_TIMM else None


def packages_of(subject: Subject) -> tuple[str, ...]:
    """The packages that build the networks of a bundle of weights: torchvision, timm, kdhpc."""
    libraries = [None if subject.is_branched else library_of(name, subject.image_size) for name in subject.names]
    return tuple(dict.fromkeys("kdhpc" if one is None else one.package for one in libraries))


def check_timm(subject: Subject) -> None:
    """Refuse networks that timm does not know.

    Raises:
        ConfigError: the message names the nodes and their networks.
    """
    origin, others = subject.run.origin, "give --format torch, onnx or safetensors"
    if subject.is_branched:
        raise ConfigError(f"{origin}: timm has no network with branches, as ONE's is: {others}")
    named = zip(subject.nodes, subject.names, strict=True)
    unknown = [f"node {node + 1} ({name})" for node, name in named if timm_name(name) is None]
    if unknown:
        known = len(unknown) < len(subject.nodes)
        alone = ", or --node with a node that timm knows" if known else ""
        raise ConfigError(f"{origin}: timm does not know {', '.join(unknown)}: {others}{alone}")


def write_safetensors(subject: Subject, folder: Path) -> None:
    """Write ``node<k>.safetensors`` of each network, and ``config.json``.

    Raises:
        NetworkError: weights are damaged.
        StorageError: the file system refuses.
    """
    config, networks = subject.run.config.network, []
    for index in (0,) if subject.is_branched else subject.nodes:
        file = "branches.safetensors" if subject.is_branched else f"node{index + 1}.safetensors"
        write_whole(folder / file, _saved(subject.run.read_weights(index)))
        own = config.of(index)
        library = None if subject.is_branched else library_of(own.name, subject.image_size)
        networks.append(
            {
                "file": file,
                "node": None if subject.is_branched else index + 1,
                "branches": subject.run.result.num_nodes if subject.is_branched else None,
                "kdhpc": _kdhpc_document(own),
                "library": library
                and {"package": library.package, "name": library.name, "options": dict(library.options)},
                "timm": None if subject.is_branched else timm_name(own.name),
            }
        )
    ensemble = "the network's own gated sum of its branches' logits" if subject.is_branched else "mean of the logits"
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "num_classes": len(subject.card.classes),
        "image_size": subject.image_size,
        "ensemble": ensemble,
        "networks": networks,
    }
    write_whole(folder / "config.json", strict_json(document, indent=2), "\n")


def write_timm(subject: Subject, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` of each network: of a single one into the folder itself, of
    several into ``node<k>``.

    Raises:
        BundleError: timm's network has other weights.
        NetworkError: weights are damaged.
        StorageError: the file system refuses.
    """
    timm = importlib.import_module("timm")
    for node, name in zip(subject.nodes, subject.names, strict=True):
        own = timm_name(name)
        assert own is not None, "it was checked"
        options = dict(timm_options(own, subject.image_size))
        network: nn.Module = timm.create_model(own, num_classes=len(subject.card.classes), **options)
        weights = subject.run.read_weights(node)
        try:
            network.load_state_dict(weights)
        except RuntimeError as exc:
            reason = " ".join(str(exc).split())[:200]
            raise BundleError(
                f"{subject.run.origin}: timm's {own} here has other weights than node {node + 1} ({reason}): give "
                "another format"
            ) from exc
        place = folder if len(subject.nodes) == 1 else folder / f"node{node + 1}"
        write_whole(place / "model.safetensors", _saved(weights))
        document = _timm_document(subject, own, options, network)
        write_whole(place / "config.json", strict_json(document, indent=2), "\n")


def _timm_document(subject: Subject, name: str, options: Mapping[str, object], network: nn.Module) -> dict[str, object]:
    """What timm reads from ``config.json``. Its preprocessing comes near the run's; preprocessing.json is exact."""
    config = subject.run.config.dataset
    photographs = config.augmentation == "resized_crop"
    mean, std = channel_values(config)
    theirs: Mapping[str, object] = dict(getattr(network, "pretrained_cfg", None) or {})
    side, num_classes = subject.image_size, len(subject.card.classes)
    return {
        "architecture": name,
        "num_classes": num_classes,
        "num_features": getattr(network, "num_features", None),
        "label_names": list(subject.card.classes),
        **({"model_args": dict(options)} if options else {}),
        "pretrained_cfg": {
            "tag": "kdhpc",
            "custom_load": False,
            "input_size": [3, side, side],
            "fixed_input_size": bool(theirs.get("fixed_input_size", False)),
            "interpolation": "bilinear" if photographs else "bicubic",
            "crop_pct": side / config.resize if photographs else 1.0,
            "crop_mode": "center",
            "mean": list(mean),
            "std": list(std),
            "num_classes": num_classes,
            **{key: theirs[key] for key in ("first_conv", "classifier") if theirs.get(key) is not None},
        },
    }


def _kdhpc_document(config: NetworkConfig) -> dict[str, object]:
    """What builds the network in kdhpc: only options that change its layers."""
    options = {"residual_attention": config.residual_attention, "layer": config.layer}
    return {"name": config.name, **{key: value for key, value in options.items() if value is not None}}


def _saved(weights: Mapping[str, Tensor]) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in weights.items()})


def _without_tag(name: str) -> str:
    """A name of timm's without the tag that says which weights were trained."""
    return name.partition(".")[0]
