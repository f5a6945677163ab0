"""Whether a bundle predicts what the run does: its own ``use.py`` runs it, on images that the run was scored on."""

import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdhpc.bundle.quiet import quiet
from kdhpc.bundle.subject import Subject
from kdhpc.data.batches import EvalBatches
from kdhpc.data.crops import seeded
from kdhpc.data.transform import Transform
from kdhpc.errors import BundleError, ConfigError, DataError

ALLOWED = 1e-5
"""Largest difference of a probability, and of a logit; if logits are larger than 1, this share of the largest."""
MAX_IMAGES = 512
"""Most images of a check: they are in memory together."""
_BATCH = 64

_Run = Callable[[object, NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]


@dataclass(frozen=True, kw_only=True)
class CheckImages:
    """Images on which a bundle is compared with its run."""

    images: Tensor
    """float32 (N, 3, S, S), preprocessed."""
    kind: str
    """``test``, or ``generated``."""
    why: str = ""
    """Why they are generated."""

    @property
    def words(self) -> str:
        """``64 test images``."""
        return f"{len(self.images)} {self.kind} image{'s' if len(self.images) > 1 else ''}"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a comparison found."""

    images: CheckImages
    """What was compared on."""
    logits: float
    """Largest difference of a logit."""
    largest_logit: float
    """Largest absolute value of the run's logits."""
    probabilities: float
    """Largest difference of a probability."""

    @property
    def words(self) -> str:
        """Both differences."""
        if not self.logits and not self.probabilities:
            return "it predicts what the run does, to the bit"
        return (
            f"its logits differ from the run's by {self.logits:.1e} at most (the largest logit is "
            f"{self.largest_logit:.3g}), its probabilities by {self.probabilities:.1e}"
        )


def check_images(subject: Subject, number: int) -> CheckImages:
    """Test images of the run, spread evenly; or, where its images are not here, images of random pixels.

    Args:
        subject: What is exported.
        number: How many; of fewer test images, all.

    Raises:
        ConfigError: more than `MAX_IMAGES`.
        StorageError: the file system refuses.
    """
    if number > MAX_IMAGES:
        raise ConfigError(f"--images {number} is not allowed: 1 to {MAX_IMAGES}")
    device = torch.device("cpu")
    try:
        packed = subject.run.open_images()
    except (DataError, ConfigError) as exc:
        return CheckImages(images=_generated(subject, number), kind="generated", why=" ".join(str(exc).split()))
    total = len(packed.test.labels)
    chosen = np.unique(np.linspace(0, total - 1, min(number, total)).round().astype(np.int64))
    batches = EvalBatches(packed.test, chosen, subject.run.config.dataset, batch_size=len(chosen), device=device)
    return CheckImages(images=torch.cat([batch.images for batch in batches]), kind="test")


def check_bundle(subject: Subject, folder: Path, images: CheckImages) -> Checked:
    """Run a bundle, and compare it with the run's own networks.

    Raises:
        BundleError: it cannot be run, or differs by more than `ALLOWED`.
    """
    try:
        with quiet():
            program = runpy.run_path(str(folder / "use.py"), run_name="use")
            run: _Run = program["run"]
            model: object = program["load"]()
    except Exception as exc:  # Other people's libraries read what others of them wrote.
        raise BundleError(f"{subject.run.origin}: what was exported cannot be loaded again ({_said(exc)})") from exc
    differences, largest = [0.0, 0.0], 0.0
    # One image first: a program must take any number.
    for batch in (images.images[:1], *torch.split(images.images[1:], _BATCH)):
        if not len(batch):
            continue
        with torch.no_grad():
            expected = [part.numpy() for part in subject.networks(batch)]
        try:
            with quiet():
                found = run(model, batch.numpy())
        except Exception as exc:  # As above.
            raise BundleError(
                f"{subject.run.origin}: what was exported fails on {len(batch)} images ({_said(exc)})"
            ) from exc
        pairs = zip(differences, found, expected, strict=True)
        differences = [max(before, _difference(one, other)) for before, one, other in pairs]
        largest = max(largest, float(np.abs(expected[0]).max()))
    checked = Checked(images=images, logits=differences[0], largest_logit=largest, probabilities=differences[1])
    allowed = ALLOWED * max(1.0, largest)
    if not (checked.logits <= allowed and checked.probabilities <= ALLOWED):
        raise BundleError(
            f"{subject.run.origin}: on {images.words}, what was exported gives other logits than the run "
            f"(by {checked.logits:.1e}, allowed {allowed:.1e}; probabilities by {checked.probabilities:.1e}, allowed "
            f"{ALLOWED:.0e}): nothing is written; give another --format"
        )
    return checked


def _generated(subject: Subject, number: int) -> Tensor:
    height, width, channels = subject.card.image_shape
    pixels = torch.randint(0, 256, (number, height, width, channels), generator=seeded("bundle"), dtype=torch.uint8)
    transform = Transform(subject.run.config.dataset, (height, width), device=torch.device("cpu"), channels_last=False)
    return transform(pixels, transform.centre(torch.tensor([(height, width)] * number)))


def _difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest difference; infinite where shapes or types differ, or a number is none."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    largest = float(np.abs(found - expected).max())
    return largest if np.isfinite(largest) else float("inf")


def _said(exc: Exception) -> str:
    return " ".join(f"{type(exc).__name__}: {exc}".split())[:300]
