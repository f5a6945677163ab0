"""``tools/bench study``: many workers on the shared study against plain ``study.optimize``, on the same PostgreSQL."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from tools.benchmarks.report import Cell, Report
from tools.benchmarks.study_server import benchmark_server, make_ours, make_plain

_ROOT = Path(__file__).parents[2]
Side = Literal["ours", "plain"]


class _Told(TypedDict):
    """A worker's last line."""

    trials: int
    cpu_s: float
    start_s: dict[str, float]
    times_ms: dict[str, list[float]]
    statements: dict[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """One side of one cell."""

    wall_s: float
    workers: list[_Told]

    @property
    def trials(self) -> int:
        return sum(worker["trials"] for worker in self.workers)

    @property
    def cpu_ms(self) -> float:
        """Client CPU of a trial."""
        return 1e3 * sum(worker["cpu_s"] for worker in self.workers) / self.trials

    def times(self, kind: str) -> list[float]:
        return sorted(time_ms for worker in self.workers for time_ms in worker["times_ms"].get(kind, []))

    def statements(self, kind: str) -> int:
        """Of one call: the median, as a call that finds nothing to do takes fewer."""
        counts = [count for worker in self.workers for count in worker["statements"].get(kind, [])]
        return round(statistics.median(counts))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured."""
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 8, 32], help="processes (default: 1 8 32)")
    parser.add_argument("--finished", nargs="+", type=int, default=[0, 6000], help="trials before (default: 0 6000)")
    parser.add_argument("--trials", type=int, default=96, help="trials of a cell, a side (default: 96)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure all cells; each side's study is new in each."""
    rows: list[dict[str, Cell]] = []
    with benchmark_server(workers=2 * max(arguments.workers)) as storage:
        for finished in arguments.finished:
            for workers in arguments.workers:
                name = f"{finished}-{workers}"
                make_ours(storage, f"ours-{name}", finished=finished, trials=arguments.trials)
                make_plain(f"plain-{name}", finished=finished)
                ours = _measure("ours", f"ours-{name}", workers, arguments.trials)
                # MaxTrialsCallback counts the trials that were there before.
                plain = _measure("plain", f"plain-{name}", workers, finished + arguments.trials)
                for side, measured in (("ours", ours), ("plain Optuna", plain)):
                    ratio = plain.cpu_ms / measured.cpu_ms
                    rows.append(_row(side, measured, finished=finished, workers=workers, ratio=ratio))
    return Report(
        title="The shared study against plain study.optimize",
        settings={"parameters": 45, "trials a cell": arguments.trials, "pruner": "median rule / SuccessiveHalving"},
        rows=rows,
        notes=(
            "Trials without training, as fast as they go. st: statements of one call, pings and COMMIT left out; "
            "register is leased or ask with all suggests, report includes the pruning decision. CPU: of the clients, "
            "imports left out, and of a trial with the reports that it makes until it is pruned; cold start: process "
            "start to the first leased, CPU. ratio: plain Optuna's CPU a trial over this side's.",
        ),
    )


def _measure(side: Side, study: str, workers: int, trials: int) -> _Measured:
    command = [sys.executable, "-m", "tools.benchmarks.study_worker", side, study, str(trials)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT)
        for _ in range(workers)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", "a worker did not start: see its error above"
        begin = time.perf_counter()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        told: list[_Told] = [json.loads(process.communicate()[0]) for process in processes]
        return _Measured(wall_s=time.perf_counter() - begin, workers=told)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _row(side: str, measured: _Measured, *, finished: int, workers: int, ratio: float) -> dict[str, Cell]:
    row: dict[str, Cell] = {
        "finished": finished,
        "workers": workers,
        "side": side,
        "trials": measured.trials,
        "trials/s": measured.trials / measured.wall_s,
        "reports/trial": len(measured.times("report")) / measured.trials,
        "CPU ms/trial": measured.cpu_ms,
        "ratio": ratio,
    }
    for kind in ("register", "report", "tell"):
        times = measured.times(kind)
        row[f"{kind} st"] = measured.statements(kind)
        row[f"{kind} p50 ms"] = statistics.median(times)
        row[f"{kind} p95 ms"] = times[int(0.95 * (len(times) - 1))]
    row["cold start, s"] = statistics.median(worker["start_s"]["cpu"] for worker in measured.workers)
    return row
