"""``kdhpc doctor``: whether all that kdhpc needs is here and works."""

import argparse
import dataclasses
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdhpc.config.schema import ClusterConfig
    from kdhpc.doctor.finding import Finding

_NAME_WIDTH = 22


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="whether all that kdhpc needs is here and works",
        description="Looks at packages, disks, file locks, data sets, the database, Slurm, the GPU and torch.compile. "
        "Each line is `ok`, `not here` (some uses need it), or `to do`: it is here, or configured, and does not work. "
        "Changes nothing; with --job, the job's files stay in runs/doctor. Exits 1 if something is to do.",
        epilog="example:\n  kdhpc doctor --job cluster.partition=gpu",
    )
    parser.add_argument(
        "--job", action="store_true", help="also submit a Slurm job like a worker's, which looks at its node, and wait"
    )
    parser.add_argument(
        "--quick", action="store_true", help="leave out torch, its GPU and compiling, which take longest"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="with --job: as cluster.account=me")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Examine.

    Returns:
        0: nothing is to do; 1: something is.

    Raises:
        UsageError: overrides without ``--job``, or of other groups than ``cluster``.
        ClusterError: ``--job``, and Slurm does not take it.
    """
    from kdhpc.doctor.examination import examine

    cluster = _cluster(args)
    rooms = {"here": _shown(examine(quick=args.quick), args.format)}
    if cluster is not None:
        from kdhpc.doctor.job import examine_on_a_node

        _tell("what a job on a node sees:")
        rooms["job"] = _shown(examine_on_a_node(cluster, _tell, quick=args.quick), args.format)
    if args.format == "json":
        from kdhpc.files.json_text import strict_json

        print(
            strict_json({room: [dataclasses.asdict(each) for each in found] for room, found in rooms.items()}, indent=2)
        )
    return int(any(_is_fault(each) for found in rooms.values() for each in found))


def _cluster(args: argparse.Namespace) -> "ClusterConfig | None":
    from kdhpc.errors import UsageError

    strange = [override for override in args.overrides if not override.startswith("cluster.")]
    if strange or (args.overrides and not args.job):
        raise UsageError(f"{(strange or args.overrides)[0]!r} is not allowed here: give --job cluster.key=value")
    if not args.job:
        return None
    from kdhpc.config.compose import compose_search  # Hydra takes most of a second.

    # Any study's config would do: it has the same cluster.
    return compose_search(["study=quickstart", "cluster=slurm", *args.overrides]).cluster


def _shown(findings: "Iterable[Finding]", form: str) -> "Sequence[Finding]":
    """All of them; as a table, each is printed as it comes."""
    found = []
    for finding in findings:
        found.append(finding)
        if form == "table":
            print("\n".join(_lines(finding)), flush=True)
    return found


def _lines(finding: "Finding") -> list[str]:
    from kdhpc.printing import one_line

    head = f"{finding.state.value:<8}  {finding.name:<{_NAME_WIDTH}}  "
    said = [one_line(finding.words), *([f"-> {one_line(finding.remedy)}"] if finding.remedy else [])]
    if sys.stdout.isatty():
        width = _columns() - len(head)
        if width < 30:  # A narrow terminal: under the name instead of beside it.
            return [head.rstrip(), *(f"  {line}" for each in said for line in textwrap.wrap(each, _columns() - 2))]
        said = [line for each in said for line in textwrap.wrap(each, width)]
    return [head + said[0], *(" " * len(head) + line for line in said[1:])]


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _is_fault(finding: "Finding") -> bool:
    from kdhpc.doctor.finding import State

    return finding.state is State.FAULT


def _tell(text: str) -> None:
    print(f"kdhpc: {text}", file=sys.stderr, flush=True)
