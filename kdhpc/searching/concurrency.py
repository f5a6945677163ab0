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


class Concurrency:
    """The number of trials that a worker trains at once.

    ``auto`` begins with one. Each time that all trials have done steps for a while, their number is doubled; if all
    together then do not make at least 15 % more steps a second, or do not fit into memory, the last doubling is taken
    back, and the number does not change any more.

    In a round, every trial does one step. Only rounds in which no trial does anything else are timed, in windows so
    short that they fit between the ends of the epochs of eight trials.

    Args:
        concurrent_trials: ``worker.concurrent_trials``.
        device: ``auto`` on a CPU is 1: a single trial keeps it busy.
        most: Largest number that ``auto`` may reach.
        has_room: Returns whether as many trials again fit into memory.
        wait: Waits until the device has done all that it was given.
        clock: Returns the time in seconds, from any origin.
    """

    def __init__(
        self,
        concurrent_trials: int | Literal["auto"],
        device: torch.device,
        *,
        most: int = _MOST,
        has_room: Callable[[], bool],
        wait: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._explores = self._is_found_out = concurrent_trials == "auto" and device.type == "cuda"
        self.most = concurrent_trials if concurrent_trials != "auto" else most if self._explores else 1
        """Trial runners that a worker must have ready."""
        self.num_trials = 1 if self._explores else self.most
        """Trials that are to run at once now."""
        self._has_room = has_room
        self._wait = wait
        self._clock = clock
        self._rounds = 0
        self._begin = 0.0
        self._windows_s: list[float] = []
        self._rate: float | None = None

    def may_be_too_many(self, num_busy: int) -> bool:
        """Whether a lack of memory may be due to the number of trials at once, and not to one trial by itself."""
        return self._is_found_out and num_busy > 1

    def retreat(self, num_left: int) -> None:
        """The trials at once were too many for the device's memory: halve their number for good.

        If at least as many as that number are left, it has been halved for another one of them already, and stays.

        Args:
            num_left: Trials that are left beside the one for which there was no memory.
        """
        if self.num_trials > max(1, num_left):
            self.num_trials //= 2
            self._settle("twice as many do not fit into the GPU's memory")

    def note_round(self, num_busy: int, *, only_steps: bool) -> None:
        """Take note of a round: every trial did a step, and perhaps something else, such as scoring.

        Args:
            num_busy: Trials that ran.
            only_steps: Each of them did a step and nothing else.
        """
        if not self._explores:
            return
        if not only_steps or num_busy != self.num_trials:  # A runner waits for a trial, or one too many still runs.
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
            self.num_trials //= 2
            self._settle(f"{rate:.1f} steps a second with twice as many, {self._rate:.1f} with these")
        elif 2 * self.num_trials > self.most:
            self._settle("the most there are")
        elif not self._has_room():
            self._settle("more do not fit into the GPU's memory")
        else:
            self._rate = rate
            self.num_trials *= 2

    def _settle(self, reason: str) -> None:
        self._explores = False
        _LOG.info("worker.concurrent_trials=auto: %d (%s)", self.num_trials, reason)


def most_concurrent_trials(config: SearchConfig) -> int:
    """Trials at once whose streams are all different: a trial's own, those of its recordings, and with
    ``device.node_streams`` those of its nodes."""
    num_streams = 1 + MOST_RECORDINGS + (config.study.num_nodes if config.device.node_streams else 0)
    return NUM_STREAMS // num_streams


def concurrency_on(config: SearchConfig, device: torch.device) -> Concurrency:
    """The concurrency of a worker whose data are in place on the device already.

    Raises:
        ConfigError: more trials at once than there are streams for.
    """
    asked = config.worker.concurrent_trials
    if device.type != "cuda":
        return Concurrency(asked, device, has_room=lambda: True, wait=lambda: None)
    most = most_concurrent_trials(config)
    if asked != "auto" and asked > most:
        raise ConfigError(
            f"worker.concurrent_trials={asked} is not allowed: at most {most}, with "
            f"node_streams={config.device.node_streams} and {config.study.num_nodes} nodes, so that each "
            "has streams of its own"
        )
    before = torch.cuda.memory_reserved(device)

    def has_room() -> bool:
        free, _ = torch.cuda.mem_get_info(device)
        return free > _SPARE_MEMORY * (torch.cuda.memory_reserved(device) - before) > 0

    return Concurrency(
        asked, device, most=min(_MOST, most), has_room=has_room, wait=lambda: torch.cuda.synchronize(device)
    )
