"""Two ways to do the same, in turns in one process: the ratio survives a machine that others use too."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Times of both sides, round by round."""

    ours_s: tuple[float, ...]
    """Of our side."""
    peer_s: tuple[float, ...]
    """Of the other."""

    @property
    def ratio(self) -> float:
        """How many times faster we are: the median of the rounds' own ratios."""
        return statistics.median(self._ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the rounds' ratios."""
        first, _, third = statistics.quantiles(self._ratios, n=4)
        return first, third

    @property
    def _ratios(self) -> list[float]:
        return [peer / ours for ours, peer in zip(self.ours_s, self.peer_s, strict=True)]


def paired(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Paired:
    """Run both sides in turns; who is first changes every round.

    Args:
        ours: Our side.
        peer: The other.
        rounds: How often, at least 2.
        warm_up: Rounds before those that count.
        clock: `time.perf_counter`, or `time.process_time` for what one thread works.
    """
    times: dict[int, list[float]] = {0: [], 1: []}
    for number in range(warm_up + rounds):
        for side in (0, 1) if number % 2 else (1, 0):
            begin = clock()
            (ours, peer)[side]()
            took = clock() - begin
            if number >= warm_up:
                times[side].append(took)
    return Paired(ours_s=tuple(times[0]), peer_s=tuple(times[1]))
