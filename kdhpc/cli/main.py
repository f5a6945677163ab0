"""The ``kdhpc`` command. Every subcommand is one file beside this one and imports what it needs only when it runs."""

import argparse
import os
import re
import sys
from collections.abc import Sequence

from kdhpc import __version__
from kdhpc.cli import (
    completion,
    confirm,
    data,
    db,
    doctor,
    enqueue,
    export_best,
    import_graph,
    init,
    launch,
    report,
    results,
    retry,
    search,
    status,
    stop,
    train,
    worker,
)
from kdhpc.errors import KdhpcError
from kdhpc.interpreter import settle
from kdhpc.printing import printable_output

_EPILOG = """\
a search, from nothing:
  kdhpc data prepare fashion_mnist /usr/share/datasets/fashion-mnist
  kdhpc db start
  kdhpc search --study quickstart
  kdhpc status
  kdhpc export-best

environment:
  KDHPC_STUDY       study that commands mean without --study
  KDHPC_STORAGE     an existing PostgreSQL server (postgresql://...), instead of `kdhpc db start`
  KDHPC_RUNS        what searches write (default: ./runs)
  KDHPC_DATA        packed data sets (default: ./data)
  KDHPC_CONFIG_DIR  your own configs, searched before the shipped ones (default: ./configs)
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="kdhpc",
        description="Search for how a group of networks should teach each other so that their ensemble is accurate.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kdhpc {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (
        search,
        launch,
        status,
        stop,
        retry,
        enqueue,
        confirm,
        export_best,
        import_graph,
        train,
        results,
        report,
        worker,
        db,
        data,
        doctor,
        init,
        completion,
    ):
        command.add_parser(commands)
    return parser


@printable_output()
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Its words; None: those of this process, which is the command and nothing else, and is set up as such.

    Returns:
        0 done, 1 failed, 2 used wrongly (also argparse's own exit code), 130 interrupted, 141 nobody reads the output.
    """
    if argv is None and os.environ.get("_ARGCOMPLETE"):
        _complete()
    args = _parse(sys.argv[1:] if argv is None else argv)
    try:
        if argv is None:
            settle()
        code = int(args.func(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # As `head` does it: whoever reads has enough. Nothing is left that would be flushed, and fail, at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("kdhpc: interrupted", file=sys.stderr)
        return 130
    except (KdhpcError, OSError, UnicodeError) as exc:
        if args.debug:
            raise
        # A library's words, quoted in a message, may have many lines.
        print(f"kdhpc: {' '.join(_words(exc).split())}", file=sys.stderr)
        return exc.exit_code if isinstance(exc, KdhpcError) else 1


def _complete() -> None:
    """A shell asks what Tab may complete: answer, and end."""
    from kdhpc.cli.completers import complete

    complete(build_parser())


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; in ``words`` as they were given."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    # argparse takes overrides only where they stand together; people also write some after an option.
    if rest and not (hasattr(args, "overrides") and all(re.match(r"[^-].*=", word) for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += rest
    args.words = list(argv)
    return args


def _words(exc: KdhpcError | OSError | UnicodeError) -> str:
    """The message; of the system's own errors the path, which people can do something about, and what is wrong."""
    if isinstance(exc, OSError) and exc.filename is not None:
        return f"{exc.filename}: {exc.strerror}"
    if isinstance(exc, (UnicodeDecodeError, UnicodeEncodeError)):
        # Not all of it: it may hold a password.
        culprit = exc.object[exc.start : exc.end]
        return f"{culprit!r}, in a path, a name, a setting or a file, is no text in {exc.encoding}: rename or mend it"
    return str(exc)


if __name__ == "__main__":
    sys.exit(main())
