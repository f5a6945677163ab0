"""How many trials a worker trains at once, found out while it trains them."""

import logging
import time
from collections.abc import Callable
from typing import Literal

import torch

from kdhpc.config.schema import SearchConfig
from kdhpc.errors import ConfigError
from kdhpc.training.step import MOST_RECORDINGS
from kdhpc.training.streams import NUM_STREAMS

_LOG = logging.getLogger(__name__)
_MOST = 8
_WARM_ROUNDS = 5
_TIMED_ROUNDS = 20
_WINDOWS = 2
_WORTHWHILE = 1.15
_SPARE_MEMORY = 1.2


class Seating:
    """The number of seats that a worker fills.

    ``auto`` begins with one. Each time that all seats have had their turns for a while, their number is doubled; if all
    together then do not make at least 15 % more steps a second, or do not fit into memory, the last doubling is taken
    back, and that is it.

    Only rounds of steps and nothing else are timed, in windows so short that they fit between the ends of the epochs of
    eight seats.

    Args:
        seats: ``worker.seats``.
        device: ``auto`` on a CPU is 1: a single trial keeps it busy.
        most: Seats that ``auto`` may come to.
        has_room: Whether as many seats again fit into memory.
        wait: Until the device has done all that it was given.
        clock: Seconds.
    """

    def __init__(
        self,
        seats: int | Literal["auto"],
        device: torch.device,
        *,
        most: int = _MOST,
        has_room: Callable[[], bool],
        wait: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._explores = self._is_found_out = seats == "auto" and device.type == "cuda"
        self.most = seats if seats != "auto" else most if self._explores else 1
        """Seats that a worker must have ready."""
        self.num_filled = 1 if self._explores else self.most
        """Seats that are to be filled now."""
        self._has_room = has_room
        self._wait = wait
        self._clock = clock
        self._rounds = 0
        self._begin = 0.0
        self._windows_s: list[float] = []
        self._rate: float | None = None

    def may_be_too_many(self, num_busy: int) -> bool:
        """Whether so many trials at once may be more than fit into the device's memory, by no fault of theirs."""
        return self._is_found_out and num_busy > 1

    def retreat(self, num_left: int) -> None:
        """They were too many for the device's memory: halve the number for good, if no more than that were there.

        Args:
            num_left: Trials that are left beside the one for which there was no memory.
        """
        if self.num_filled > max(1, num_left):
            self.num_filled //= 2
            self._settle("twice as many do not fit into the GPU's memory")

    def note_round(self, num_busy: int, *, only_steps: bool) -> None:
        """Every seat that has a trial had its turn.

        Args:
            num_busy: Seats that have a trial.
            only_steps: Each of them did a step and nothing else.
        """
        if not self._explores:
            return
        if not only_steps or num_busy != self.num_filled:  # A seat waits for a trial, or one too many is still taken.
            self._rounds = 0
            return
        self._rounds += 1
        if self._rounds == _WARM_ROUNDS:
            self._wait()
            self._begin = self._clock()
        elif self._rounds == _WARM_ROUNDS + _TIMED_ROUNDS:
            self._wait()
            self._windows_s.append(self._clock() - self._begin)
            self._rounds = 0
            if len(self._windows_s) == _WINDOWS:
                self._decide(num_busy * _WINDOWS * _TIMED_ROUNDS / sum(self._windows_s))
                self._windows_s = []

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


def most_seats(config: SearchConfig) -> int:
    """Seats whose streams are all different: its own, those of its recordings, and with ``device.node_streams`` its
    nodes'."""
    num_streams = 1 + MOST_RECORDINGS + (config.study.num_nodes if config.device.node_streams else 0)
    return NUM_STREAMS // num_streams


def seating_on(config: SearchConfig, device: torch.device) -> Seating:
    """The seating of a worker whose data are in place on the device already.

    Raises:
        ConfigError: more seats than there are streams for.
    """
    seats = config.worker.seats
    if device.type != "cuda":
        return Seating(seats, device, has_room=lambda: True, wait=lambda: None)
    most = most_seats(config)
    if seats != "auto" and seats > most:
        raise ConfigError(
            f"worker.seats={seats} is not allowed: at most {most}, with node_streams={config.device.node_streams}"
            f" and {config.study.num_nodes} nodes, so that each has streams of its own"
        )
    before = torch.cuda.memory_reserved(device)

    def has_room() -> bool:
        free, _ = torch.cuda.mem_get_info(device)
        return free > _SPARE_MEMORY * (torch.cuda.memory_reserved(device) - before) > 0

    return Seating(seats, device, most=min(_MOST, most), has_room=has_room, wait=lambda: torch.cuda.synchronize(device))
