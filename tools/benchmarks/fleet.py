"""``tools/bench fleet``: a thousand workers, which train nothing here, on one server; or more through a pooler."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import text

from kdhpc.study.storage import Storage
from tools.benchmarks.pooler import pgbouncer
from tools.benchmarks.report import Cell, Report
from tools.benchmarks.study_server import benchmark_server, make_ours, plain_url, server_cpu_s, server_processes

_ROOT = Path(__file__).parents[2]
_RENEW_S = 30.0
_PER_PROCESS = 250
_SIZE = "SELECT pg_database_size(current_database())"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is simulated."""
    parser.add_argument("--workers", type=int, default=1000, help="default: 1000")
    parser.add_argument("--minutes", type=float, default=60, help="of the fleet's time (default: 60)")
    parser.add_argument("--epoch-s", type=float, default=60, help="how long an epoch takes a worker (default: 60)")
    parser.add_argument("--faster", type=float, default=10, help="how much faster its time goes here (default: 10)")
    parser.add_argument(
        "--start-s", type=float, default=0, help="workers begin within so long, not all at once (default: 0)"
    )
    parser.add_argument(
        "--pgbouncer",
        type=int,
        metavar="SESSIONS",
        help="workers share so many sessions of the server through PgBouncer in transaction mode (default: none, each "
        "has its own)",
    )


def run(arguments: argparse.Namespace) -> Report:
    """Simulate."""
    seconds = 60 * arguments.minutes / arguments.faster
    most = int(2 * arguments.workers * max(1, 60 * arguments.minutes / arguments.epoch_s))
    clients = arguments.workers + 10
    with ExitStack() as stack:
        storage = stack.enter_context(benchmark_server(workers=arguments.pgbouncer or clients))
        environment = dict(os.environ)
        if arguments.pgbouncer:
            pooler = pgbouncer(plain_url(), sessions=arguments.pgbouncer, clients=clients)
            environment["KDHPC_STORAGE"] = stack.enter_context(pooler)
        study = make_ours(storage, "fleet", finished=0, trials=most)
        before_s, begin = server_cpu_s(), time.perf_counter()
        told, connect_s, memory_mb = _simulate(arguments, seconds, environment)
        cpu_s, wall_s = server_cpu_s() - before_s, time.perf_counter() - begin
        counts = study.progress()
        ended = counts.complete + counts.pruned
        whole = _is_whole(storage) and counts.running == counts.failed == 0 and counts.target == most
        size_mb = (
            storage.read(lambda c: c.execute(text("SELECT pg_database_size(current_database())")).scalar_one()) / 1e6
        )
    rows = [_row(kind, told, 60 * arguments.minutes) for kind in ("lease", "report", "renew", "end")]
    errors = [error for process in told for error in process["errors"]]  # type: ignore[attr-defined]
    client_s = sum(process["cpu_s"] for process in told)  # type: ignore[misc]
    return Report(
        title="A simulated fleet on one server",
        settings={
            "workers": arguments.workers,
            "minutes": arguments.minutes,
            "epoch, s": arguments.epoch_s,
            "lease renewed every, s": _RENEW_S,
            "begin within, s": arguments.start_s,
            "time goes faster by": arguments.faster,
            "through PgBouncer": f"{arguments.pgbouncer} sessions" if arguments.pgbouncer else "no",
        },
        rows=rows,
        notes=(
            f"{ended} trials ended, {counts.complete} of them complete; errors {len(errors)}{_first(errors)}; no trial "
            f"lost, doubled or left running: {'yes' if whole else 'NO'}.",
            f"Server: {cpu_s:.0f} s of CPU for {arguments.minutes:g} minutes of the fleet, connecting included: "
            f"{100 * cpu_s / (60 * arguments.minutes):.1f} % of one core at the fleet's own pace, "
            f"{1e3 * cpu_s / max(1, ended):.1f} ms a trial; {memory_mb:.0f} MB of memory (proportional set size), "
            f"database {size_mb:.0f} MB. Clients: {client_s:.0f} s of CPU, on the same cores. {connect_s:.0f} s to "
            f"connect all, {wall_s:.0f} s in all.",
            f"Everything goes {arguments.faster:g} times as fast as the fleet would, epochs and renewals alike: the "
            "load is that many times as high, and latencies are those under it, with the clients on the same machine.",
        ),
    )


def _simulate(
    arguments: argparse.Namespace, seconds: float, environment: Mapping[str, str]
) -> tuple[list[dict[str, object]], float, float]:
    """What each process told; seconds to connect; memory of the server while all are connected, in MB."""
    faster = arguments.faster
    sizes = [_PER_PROCESS] * (arguments.workers // _PER_PROCESS)
    sizes += [arguments.workers % _PER_PROCESS] if arguments.workers % _PER_PROCESS else []
    begin = time.perf_counter()
    processes = []
    for size in sizes:
        paces = (arguments.epoch_s, _RENEW_S, arguments.start_s)
        pace = (str(seconds), *(str(pace_s / faster) for pace_s in paces))
        command = [sys.executable, "-m", "tools.benchmarks.fleet_worker", "fleet", str(size), *pace]
        processes.append(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT, env=environment
            )
        )
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", "a process did not connect: see its error above"
        connect_s = time.perf_counter() - begin
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        time.sleep(0.8 * seconds)
        memory_mb = sum(map(_memory_mb, server_processes()))
        return [json.loads(process.communicate()[0]) for process in processes], connect_s, memory_mb
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _memory_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next(float(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


def _is_whole(storage: Storage) -> bool:
    """Trial numbers are contiguous, each slot has at most one trial, each trial a slot."""
    query = """
        SELECT count(*) = coalesce(max(number) + 1, 0) AND count(DISTINCT number) = count(*)
            AND count(DISTINCT slot) = count(*)
        FROM trials LEFT JOIN kdhpc_slots USING (trial_id)
    """
    return bool(storage.read(lambda connection: connection.execute(text(query)).scalar_one()))


def _row(kind: str, told: list[dict[str, object]], fleet_s: float) -> dict[str, Cell]:
    times = sorted(time_ms for process in told for time_ms in process["times_ms"][kind])  # type: ignore[index]
    if not times:
        return {"call": kind, "calls": 0, "a second of the fleet": 0.0, "p50 ms": None, "p95 ms": None, "max ms": None}
    return {
        "call": kind,
        "calls": len(times),
        "a second of the fleet": len(times) / fleet_s,
        "p50 ms": statistics.median(times),
        "p95 ms": times[int(0.95 * (len(times) - 1))],
        "max ms": times[-1],
    }


def _first(errors: list[str]) -> str:
    return f" (the first: {errors[0]})" if errors else ""
