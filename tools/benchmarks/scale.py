"""``tools/bench scale``: what a search of so many workers asks of a database, a file system and Slurm, simulated.

A trial is reported at epochs 1, 2, 4, ... and pruned by the paper's rule as workers come to it. Its values are random:
half of those that reach a rung are below the median there, however well rungs agree. What a call and a session
cost the server was measured by ``tools/bench fleet`` (docs/performance.md).
"""

import argparse
import heapq
import math
import random
from bisect import bisect_right, insort
from dataclasses import dataclass, field

from kdhpc.cli.parser import positive
from kdhpc.training.schedule import is_rung
from tools.benchmarks.report import Cell, Report

_MS_A_CALL = 2.6
"""Of the server's CPU, with its share of keeping connections: 97 s for 36,964 calls of 3,000 workers."""
_CALLS_A_TRIAL = 3
"""Beside its reports: it is leased, described, and ended."""
_MB_A_SESSION = 3.2
"""Of the server's memory: 3,193 MB for 1,000 sessions."""
_KB_A_TRIAL = 16
"""Of the database: 279 MB for 17,002 trials."""
_COPIES = 2
"""A checkpoint holds weights and momenta."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The search that is simulated: the paper's, of two nodes on Stanford Dogs."""
    parser.add_argument(
        "--workers", nargs="+", type=positive, default=[10, 100, 1000, 10000], help="default: %(default)s"
    )
    parser.add_argument("--trials", type=positive, default=6000, help="default: %(default)s")
    parser.add_argument("--epochs", type=positive, default=300, help="default: %(default)s")
    parser.add_argument("--nodes", type=positive, default=2, help="networks of a graph (default: %(default)s)")
    parser.add_argument("--images", type=positive, default=6000, help="that a search trains on (default: %(default)s)")
    parser.add_argument("--held-out", type=positive, default=6000, help="that it scores on (default: %(default)s)")
    parser.add_argument(
        "--speed", type=_above_0, default=1900, help="images a second of one network that is trained (default: 1900)"
    )
    parser.add_argument("--weights-mb", type=_above_0, default=79, help="of one network (default: %(default)s)")
    parser.add_argument("--renew-s", type=_above_0, default=30.0, help="default: %(default)s")
    parser.add_argument("--checkpoint-every-s", type=_above_0, default=300.0, help="default: %(default)s")
    parser.add_argument("--rung-checkpoint-s", type=float, default=30.0, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def _above_0(text: str) -> float:
    """argparse type."""
    if not 0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def run(arguments: argparse.Namespace) -> Report:
    """Simulate each number of workers."""
    epoch_s = arguments.nodes * arguments.images / arguments.speed
    score_s = arguments.nodes * arguments.held_out / (3 * arguments.speed)
    searches = [(count, _simulated(arguments, count, epoch_s, score_s)) for count in arguments.workers]
    reached = [epoch for epoch in range(1, arguments.epochs + 1) if is_rung(epoch, arguments.epochs)]
    survived = searches[0][1].reports
    return Report(
        title=f"A search of {arguments.trials:,} trials, simulated",
        settings={
            "epochs": arguments.epochs,
            "nodes": arguments.nodes,
            "seconds an epoch": round(epoch_s, 2),
            "seconds a score": round(score_s, 2),
        },
        rows=[_row(arguments, count, search) for count, search in searches],
        notes=(
            f"Of the trials of the first row, these were scored at epoch: "
            f"{', '.join(f'{epoch}: {survived.get(epoch, 0):,}' for epoch in reached)}.",
            "Scoring takes a third of training's time for an image. A checkpoint: at a rung that a trial passes if the "
            f"last is {arguments.rung_checkpoint_s:g} s old, and every {arguments.checkpoint_every_s:g} s. Rates are "
            "means over the time in which all workers have a trial. Server: one core's share; memory of sessions "
            "without a pooler.",
        ),
    )


@dataclass
class _Search:
    """What a simulated search has come to."""

    gpu_s: float = 0.0
    epochs: int = 0
    ends: list[float] = field(default_factory=list)
    """When trials ended."""
    complete: int = 0
    checkpoints: int = 0
    reports: dict[int, int] = field(default_factory=dict)
    """By epoch."""
    busy_s: float = 0.0
    """Until the last trial began."""


def _simulated(arguments: argparse.Namespace, workers: int, epoch_s: float, score_s: float) -> _Search:
    """Workers take trials as they come free; a trial's next report is an event."""
    found, randoms = _Search(), random.Random(arguments.seed)
    rungs: dict[int, list[float]] = {}
    begun = 0
    # When the next report is, the trial's number, that report's epoch, when the last report and checkpoint were.
    events: list[tuple[float, int, int, float, float]] = []

    def begin(now: float) -> None:
        nonlocal begun
        if begun < arguments.trials:
            heapq.heappush(events, (now + epoch_s + score_s, begun, 1, now, now))
            found.busy_s = now
            begun += 1

    for _ in range(workers):
        begin(0.0)
    while events:
        now, number, epoch, last, saved = heapq.heappop(events)
        found.gpu_s += now - last
        found.reports[epoch] = found.reports.get(epoch, 0) + 1
        value = randoms.random()
        values = rungs.setdefault(epoch, [])
        is_last = epoch == arguments.epochs
        if is_last or _below_median(value, values):
            found.epochs += epoch
            found.complete += is_last
            found.ends.append(now)
            begin(now)
        else:
            following = min(2 * epoch, arguments.epochs)
            seconds = (following - epoch) * epoch_s + score_s
            if now - saved >= arguments.rung_checkpoint_s:
                found.checkpoints, saved = found.checkpoints + 1, now
            written = int((now + seconds - saved) / arguments.checkpoint_every_s)
            found.checkpoints, saved = found.checkpoints + written, saved + written * arguments.checkpoint_every_s
            heapq.heappush(events, (now + seconds, number, following, now, saved))
        insort(values, value)
    return found


def _below_median(value: float, others: list[float]) -> bool:
    """As kdhpc/study/median_rule.py."""
    num_up_to, num = bisect_right(others, value), len(others)
    if 2 * num_up_to != num:
        return 2 * num_up_to < num
    return num > 0 and value < (others[num_up_to - 1] + others[num_up_to]) / 2


def _row(arguments: argparse.Namespace, workers: int, search: _Search) -> dict[str, Cell]:
    # Until then all workers have a trial; a fleet as large as the search has its trials all at once.
    busy_s = search.busy_s or min(search.ends)
    ends = sum(end <= busy_s for end in search.ends)
    share = ends / len(search.ends)
    working = min(workers, arguments.trials)
    reports = sum(search.reports.values()) * share
    calls = (_CALLS_A_TRIAL * ends + reports) / busy_s + working / arguments.renew_s
    checkpoints = search.checkpoints * share / busy_s
    megabytes = arguments.nodes * arguments.weights_mb * _COPIES
    return {
        "workers": workers,
        "GPU hours": round(search.gpu_s / 3600),
        "wall hours": round(max(search.ends) / 3600, 1),
        "epochs a trial": round(search.epochs / arguments.trials, 1),
        "complete": search.complete,
        "trials/s": round(ends / busy_s, 3),
        "calls/s": round(calls, 1),
        "server, % of a core": round(calls * _MS_A_CALL / 10, 1),
        "sessions, GB": round(working * _MB_A_SESSION / 1000, 2),
        "checkpoints, MB/s": round(checkpoints * megabytes),
        "database, MB": round(arguments.trials * _KB_A_TRIAL / 1000),
    }
