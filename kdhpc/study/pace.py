"""Where the training of a trial stands, and how fast it is, as its worker tells with each sign of life."""

import time
from collections.abc import Callable
from dataclasses import dataclass

_STILL_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Of a training, at one moment."""

    epoch: int
    """The epoch that it is in, 1-based."""
    images_per_s: float | None
    """Images that it was shown, per second since the last time that this was asked, all between steps included; 0: no
    step was done since. None: too few steps were done to tell."""


class PaceMeter:
    """Told of each step by one thread, and read from time to time by another one; neither waits.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now: tuple[float, int, int] | None = None
        self._before: tuple[float, int] | None = None
        self._read_at = 0.0
        self._images_per_s: float | None = None

    def step(self, epoch: int, images: int) -> None:
        """A step was done.

        Args:
            epoch: 1-based.
            images: shown since the training began, each time counted.
        """
        self._now = (self._clock(), epoch, images)

    def read(self) -> Pace | None:
        """None: no step was done yet."""
        if self._now is None:
            return None
        (now_s, epoch, images), asked_s = self._now, self._clock()
        if self._before is None:
            self._before, self._read_at = (now_s, images), asked_s
        elif now_s > self._before[0]:
            self._images_per_s = (images - self._before[1]) / (now_s - self._before[0])
            self._before, self._read_at = (now_s, images), asked_s
        elif asked_s - self._read_at >= _STILL_S:
            self._images_per_s = 0.0
        return Pace(epoch=epoch, images_per_s=self._images_per_s)
