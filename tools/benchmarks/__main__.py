"""``tools/bench``: one subcommand a benchmark."""

import argparse
import importlib
import sys

from kdhpc.errors import KdhpcError
from tools.benchmarks.report import show

_BENCHMARKS = {
    "step": "a training step against the published style of loop, vmap and grouped convolution",
    "launches": "kernels of a whole step on a GPU, counted without one, beside the published style of loop",
    "losses": "the losses of all edges at once against an edge at a time",
    "data": "batches from the packed form against a DataLoader of JPEG files",
    "study": "workers on the shared study against plain study.optimize",
    "fleet": "a thousand simulated workers on one server",
    "watch": "a refresh of kdhpc status --watch, of a small study and a large one",
    "scale": "what so many workers ask of the database and the file system, simulated",
    "start": "a worker's imports and the end of its process, with and without looking for garbage in between",
    "search": "trials per hour of whole searches, and what is lost between trials",
}


def main() -> int:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="tools/bench", description="Both sides in one run, as ratios.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(_BENCHMARKS))
    asked_for = next((word for word in sys.argv[1:] if word in _BENCHMARKS), None)
    for name, help_text in _BENCHMARKS.items():
        command = commands.add_parser(name, help=help_text, description=help_text)
        command.add_argument("--json", action="store_true", help="print JSON instead of a table")
        if name == asked_for:  # The others' imports take seconds.
            module = importlib.import_module(f"tools.benchmarks.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    arguments = parser.parse_args()
    try:
        report = arguments.run(arguments)
    except KdhpcError as exc:
        print(f"bench: error: {exc}", file=sys.stderr)
        return 1
    show(report, sys.stdout, style="json" if arguments.json else "table")
    return 0


if __name__ == "__main__":
    sys.exit(main())
