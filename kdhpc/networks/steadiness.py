"""Whether all that moves in a module while it learns is in its state_dict, which is what a checkpoint holds.

And whether the module can be run as trainings run it: in training mode, and in the memory format that they prefer.
"""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from kdhpc.errors import NetworkError
from kdhpc.networks.probing import logits_of

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_NUM_IMAGES = 2
_MODE = "training"


def check_steady(module: nn.Module, image_size: int, *, label: str) -> None:
    """Refuse a module with a state that a resumed training would not have.

    It runs twice in training mode, on the same images with the same random numbers. What a first run fills, such as a
    cache, may stay different; what the second run changes again is a state.

    Args:
        module: Of which there is no further use.
        image_size: Side of the images that it takes, in pixels.
        label: What messages call it.

    Raises:
        NetworkError: an attribute, or a buffer that is not in the state_dict, changes; evaluation changes anything; or
            the module cannot be run in training mode, or gives something else than logits there.
    """
    images = _images(image_size)
    seen: list[dict[str, object]] = []
    outputs: list[Tensor] = []
    for _ in range(2):
        try:
            logits = _logits(module.train(), images)
        except Exception as exc:  # Somebody else's code may fail in whatever way.
            reason = " ".join(str(exc).split())[:300] or type(exc).__name__
            size = f"{_NUM_IMAGES} images of {image_size}x{image_size}"
            raise NetworkError(f"{label} cannot run in training mode on {size}: {reason}") from exc
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shown = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise NetworkError(
                f"{label} gives {shown} in training mode: it must give logits, (2, classes) for 2 images, there, too; "
                "make it without further outputs"
            )
        outputs.append(logits)
        seen.append(dict(_outside_state(module)))
    for name, before in seen[0].items():
        if not _same(before, seen[1].get(name)):
            raise NetworkError(
                f"{label} changes {name} in its forward pass, which a checkpoint does not hold, so that no training "
                "could go on from one: make it a tensor, registered by register_buffer, and change it in place"
            )
    if not torch.allclose(outputs[0], outputs[1], rtol=1e-3, atol=1e-4, equal_nan=True):
        raise NetworkError(
            f"{label} gives other logits for the same images, weights and random numbers of torch's: a training could "
            "not be repeated, nor go on from a checkpoint; draw random numbers with torch alone"
        )
    before = copy.deepcopy(module.state_dict())
    _logits(module.eval(), images)
    for name, tensor in module.state_dict().items():
        was = before[name]
        if not ((tensor == was) | ((tensor != tensor) & (was != was))).all():
            raise NetworkError(
                f"{label} changes {name} in evaluation mode, so that accuracies would depend on what was scored "
                "before: change it only if self.training"
            )


def takes_channels_last(module: nn.Module, image_size: int) -> bool:
    """Whether a module runs in torch's memory format ``channels_last``; ``view`` after a convolution, say, does not.

    Args:
        module: Of which there is no further use, and which runs in training mode.
        image_size: Side of the images that it takes, in pixels.
    """
    try:
        _logits(
            module.train().to(memory_format=torch.channels_last),
            _images(image_size).contiguous(memory_format=torch.channels_last),
        )
    except Exception:  # In contiguous memory it runs.
        return False
    return True


def _images(image_size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(_NUM_IMAGES, 3, image_size, image_size, generator=generator)


def _logits(module: nn.Module, images: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return logits_of(module(images))


def _outside_state(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Copies of all plain values and tensors of a module that are not in its state_dict, by name."""
    kept = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    for prefix, part in module.named_modules():
        values = {**vars(part), **part._buffers}
        for name, value in values.items():
            is_torchs = name in ("_parameters", "_buffers", "_modules", _MODE) or name.endswith("_hooks")
            if not is_torchs and id(value) not in kept and _is_value(value):
                yield f"{prefix}.{name}" if prefix else name, copy.deepcopy(value)


def _is_value(value: object) -> bool:
    """Whether it is a number, a text, a tensor, or made of these."""
    if isinstance(value, Mapping):
        return all(map(_is_value, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_value, value))
    return isinstance(value, _PLAIN) or (isinstance(value, Tensor) and value.grad_fn is None)


def _same(before: object, now: object) -> bool:
    if isinstance(before, Tensor):
        return isinstance(now, Tensor) and before.shape == now.shape and torch.equal(before, now)
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return before.keys() == now.keys() and all(_same(value, now[key]) for key, value in before.items())
    if isinstance(before, (list, tuple)) and isinstance(now, (list, tuple)):
        return len(before) == len(now) and all(map(_same, before, now))
    return type(before) is type(now) and (before == now or before != before)
