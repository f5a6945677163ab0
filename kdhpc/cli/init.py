"""``kdhpc init``: a folder to work in, with Slurm scripts and example configs of this site."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdhpc.project.site_choice import SiteChoice

_DESCRIPTION = """\
Writes what a project needs of its own into a folder: scripts for sbatch (slurm/), and configs (configs/) for the
cluster and for a study. Partition, account, cores, memory and time limit are chosen from what Slurm reports; without
Slurm they are the usual ones, to be filled in. Files that exist are left as they are, and named: remove one to get it
anew. Prints the paths of the files that it has written.
"""
_EPILOG = """\
examples:
  kdhpc init ~/pets      make a project, and its folder
  kdhpc init             here
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "init",
        help="write Slurm scripts and example configs of this site into a folder",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="where to (default: here)"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Write the files.

    Raises:
        StorageError: the folder cannot be made or written.
    """
    from kdhpc.project.contents import site_words
    from kdhpc.project.site_choice import ask_site
    from kdhpc.project.writing import write_project

    choice = ask_site()
    written = write_project(args.folder, choice)
    for path in written.new:
        print(args.folder / path)
    for path in written.kept:
        _tell(f"left as it is: {args.folder / path}")
    for line in site_words(choice):
        _tell(line)
    print("\n".join(["", "next:", *(f"  {line}" for line in _next(args.folder, choice))]), file=sys.stderr)
    return 0


def _next(folder: Path, choice: "SiteChoice") -> list[str]:
    """What to type."""
    from kdhpc.project.contents import STUDY

    enter = [] if folder.resolve() == Path.cwd() else [f"cd {shlex.quote(str(folder))}"]
    look = [
        f"$EDITOR configs/study/{STUDY}.yaml configs/cluster/slurm.yaml",
        "kdhpc data prepare fashion_mnist PATH          # or images of your own: kdhpc data prepare --help",
    ]
    if choice.problem is None:
        search = [
            f"kdhpc launch --study {STUDY} --dry-run         # the script that sbatch would get",
            f"sbatch slurm/search_array.sh --study {STUDY}   # the whole search",
        ]
    else:
        search = ["kdhpc db start", f"kdhpc search --study {STUDY}                     # on this machine"]
    return [*enter, *look, *search, f"kdhpc status --study {STUDY}"]


def _tell(text: str) -> None:
    print(f"kdhpc: {text}", file=sys.stderr)
