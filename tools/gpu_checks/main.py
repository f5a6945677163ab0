"""``tools/gpu_check``: what only a GPU can settle, in minutes, on a machine with torch and little else.

Without setup and internet: correctness on the card, speed, and a whole search. Results are printed and written as they
come; it ends by itself within the time that it is given. This process imports no torch: the checks run in others, which
may crash (see supervisor.py).
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tools.gpu_checks.rows import Results
from tools.gpu_checks.rule import over_floors, verdicts
from tools.gpu_checks.supervisor import Part
from tools.gpu_checks.wheels import WHEELS, use_site

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"correctness": 5, "speed": 3, "whole": 2}
"""Each part's share of the time, where all are run; what one leaves is for those after it."""
_SPARE_S = 4.0
"""To end processes and write results."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks.

    Returns:
        1 if any failed, else 0.
    """
    arguments = _parser().parse_args(argv)
    if arguments.wheels:
        print(*[name for name, parts in WHEELS.items() if set(parts) & set(arguments.parts)], sep="\n")
        return 0
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    settings = {"minutes": arguments.minutes, "parts": " ".join(arguments.parts)}
    results = Results(arguments.out, settings | ({"on": "a CPU, at tiny sizes"} if arguments.cpu else {}))
    with tempfile.TemporaryDirectory(prefix="kdhpc-gpu-check-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        scratch.chmod(0o711)  # PostgreSQL does not run as root, and must reach its programs and its data.
        site = None
        if arguments.site is not None:
            try:
                site = use_site(arguments.site, scratch)
            except OSError as exc:
                print(f"gpu_check: error: --site {arguments.site}: {exc.strerror or exc}", file=sys.stderr)
                return 2
        try:
            _run_parts(arguments, results, scratch, site, began)
        except KeyboardInterrupt:
            print("gpu_check: interrupted; what was found is written", file=sys.stderr)
            return 130
        finally:
            _end_servers(scratch)
            if results.rows:
                results.write()
    failed = [row for row in results.rows if row.outcome == "failed"]
    counts = ", ".join(
        f"{sum(row.outcome == outcome for row in results.rows)} {outcome}"
        for outcome in ("passed", "failed", "not run")
    )
    print(f"{counts}, {time.monotonic() - began:.0f} s; all rows: {arguments.out / 'gpu_check.md'}", flush=True)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/gpu_check", description="What only a GPU can settle: correctness, speed, a whole search."
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="default: all")
    parser.add_argument("--minutes", type=float, default=5, help="it ends by then (default: 5)")
    parser.add_argument("--site", type=Path, metavar="DIR", help="folder of the wheels that --wheels lists")
    parser.add_argument("--wheels", action="store_true", help="list the packages that the parts need beside torch")
    parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="checks by name, as '*resnet20*'")
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="of the part speed")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-check"), help="folder of the results (default: gpu-check)"
    )
    parser.add_argument("--cpu", action="store_true", help="what a CPU can do of each part, at tiny sizes")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    return parser


def _run_parts(arguments: argparse.Namespace, results: Results, scratch: Path, site: Path | None, began: float) -> None:
    parts = [part for part in PARTS if part in arguments.parts]
    paths = [str(ROOT), *([] if site is None else [str(site)]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    shares, total = 0, sum(PARTS[part] for part in parts)
    for part in parts:
        shares += PARTS[part]
        deadline = began + (60 * arguments.minutes - _SPARE_S) * shares / total

        def command(done: Sequence[str], part: str = part, deadline: float = deadline) -> list[str]:
            work = {
                "part": part,
                "cpu": arguments.cpu,
                "compiles": not arguments.eager,
                "only": arguments.only,
                "networks": arguments.networks,
                "done": list(done),
                "scratch": str(scratch),
                "seconds": deadline - time.monotonic(),
            }
            return [sys.executable, "-m", "tools.gpu_checks.child", json.dumps(work)]

        Part(part, command, deadline=deadline, found=results.add, described=results.machine.update).run()
        if part == "speed":
            for row in [*over_floors(results.rows), *verdicts(results.rows)]:
                results.add(row)


def _end_servers(scratch: Path) -> None:
    """A search that was killed leaves its PostgreSQL, which began a session of its own."""
    for path in scratch.rglob("postmaster.pid"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            os.kill(int(path.read_text(encoding="utf-8").split()[0]), signal.SIGQUIT)


if __name__ == "__main__":
    sys.exit(main())
