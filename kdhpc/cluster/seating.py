"""How many trials a worker trains at once, found out while it trains them."""

import logging
import time
from collections.abc import Callable
from typing import Literal

import torch

_LOG = logging.getLogger(__name__)
_MOST = 8
_WARM_TURNS = 50
_TIMED_TURNS = 200
_WORTHWHILE = 1.15
_SPARE_MEMORY = 1.2


class Seating:
    """The number of seats that a worker fills.

    ``auto`` begins with one. Each time that all seats have had their turns for a while, their number is doubled; if all
    together then do not make at least 15 % more steps a second, the last doubling is taken back, and that is it.

    Args:
        seats: ``worker.seats``.
        device: ``auto`` on a CPU is 1: a single trial keeps it busy.
        has_room: Whether as many seats again fit into memory.
        wait: Until the device has done all that it was given.
        clock: Seconds.
    """

    def __init__(
        self,
        seats: int | Literal["auto"],
        device: torch.device,
        *,
        has_room: Callable[[], bool],
        wait: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._explores = seats == "auto" and device.type == "cuda"
        self.most = seats if seats != "auto" else _MOST if self._explores else 1
        """Seats that a worker must have ready."""
        self.num_filled = 1 if self._explores else self.most
        """Seats that are to be filled now."""
        self._has_room = has_room
        self._wait = wait
        self._clock = clock
        self._rounds = 0
        self._begin = 0.0
        self._rate: float | None = None

    def note_round(self, num_busy: int) -> None:
        """Every seat that has a trial had its turn."""
        if not self._explores:
            return
        if num_busy != self.num_filled:  # A seat waits for a trial, or one too many is still taken.
            self._rounds = 0
            return
        self._rounds += 1
        if self._rounds == _WARM_TURNS:
            self._wait()
            self._begin = self._clock()
        elif self._rounds == _WARM_TURNS + _TIMED_TURNS:
            self._wait()
            self._decide(num_busy * _TIMED_TURNS / (self._clock() - self._begin))
            self._rounds = 0

    def _decide(self, rate: float) -> None:
        if self._rate is not None and rate < _WORTHWHILE * self._rate:
            self.num_filled //= 2
            self._settle(f"{rate:.1f} steps a second with twice as many, {self._rate:.1f} with these")
        elif 2 * self.num_filled > self.most:
            self._settle("the most there are")
        elif not self._has_room():
            self._settle("more do not fit into the GPU's memory")
        else:
            self._rate = rate
            self.num_filled *= 2

    def _settle(self, reason: str) -> None:
        self._explores = False
        _LOG.info("worker.seats=auto: %d (%s)", self.num_filled, reason)


def seating_on(seats: int | Literal["auto"], device: torch.device) -> Seating:
    """The seating of a worker whose data are in place on the device already."""
    if device.type != "cuda":
        return Seating(seats, device, has_room=lambda: True, wait=lambda: None)
    before = torch.cuda.memory_reserved(device)

    def has_room() -> bool:
        free, _ = torch.cuda.mem_get_info(device)
        return free > _SPARE_MEMORY * (torch.cuda.memory_reserved(device) - before) > 0

    return Seating(seats, device, has_room=has_room, wait=lambda: torch.cuda.synchronize(device))
