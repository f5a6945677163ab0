"""The ``kdhpc`` command. Every subcommand is one file beside this one and imports what it needs only when it runs."""

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO, cast

from kdhpc import __version__
from kdhpc.cli import (
    completion,
    confirm,
    dashboard,
    data,
    db,
    doctor,
    enqueue,
    evaluate,
    export,
    export_best,
    import_graph,
    init,
    launch,
    logs,
    predict,
    report,
    reproduce,
    results,
    retry,
    search,
    status,
    stop,
    studies,
    train,
    trial,
    worker,
)
from kdhpc.cli.given_twice import refuse_contradiction, tell_of_doubles
from kdhpc.cli.parser import CommandParser, is_override
from kdhpc.cli.study_config import study_of_environment
from kdhpc.errors import DatabaseError, KdhpcError, UnknownStudyError
from kdhpc.garbage import collect_seldom
from kdhpc.interpreter import open_closed_files, settle
from kdhpc.printing import Unheard, printable_output

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
    parser = CommandParser(
        prog="kdhpc",
        description="Search for how a group of networks should teach each other so that their ensemble is accurate.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"kdhpc {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (
        search,
        launch,
        status,
        studies,
        dashboard,
        trial,
        logs,
        stop,
        retry,
        enqueue,
        confirm,
        export_best,
        import_graph,
        train,
        evaluate,
        results,
        predict,
        report,
        reproduce,
        export,
        worker,
        db,
        data,
        doctor,
        init,
        completion,
    ):
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Its words; None: those of this process, which is the command and nothing else, and is set up as such.

    Returns:
        0 done, 1 failed, 2 used wrongly (also argparse's own exit code), 130 interrupted, 141 nobody reads the output.
    """
    if argv is None:
        if os.environ.get("_ARGCOMPLETE"):
            _complete()
        open_closed_files()
        collect_seldom()
    with _existing_streams() as unheard, printable_output():
        try:
            code = _run(argv)
        except SystemExit as exc:  # A help page, or a wrong argument.
            _settle_output()
            if exc.code or not unheard.was_written:
                raise
            code = 0
        if code == 0 and unheard.was_written:
            print("kdhpc: standard output is closed: what this command has to show was not shown", file=sys.stderr)
            return 1
        return code


def _run(argv: Sequence[str] | None) -> int:
    args = _parsed(build_parser(), sys.argv[1:] if argv is None else argv)
    try:
        if argv is None:
            settle()
        refuse_contradiction(args)
        tell_of_doubles(args)
        code = int(args.func(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # As `head` does it: whoever reads has enough.
        _write_nothing_more()
        return 141
    except KeyboardInterrupt:
        print("kdhpc: interrupted", file=sys.stderr)
        return 130
    except (KdhpcError, OSError, UnicodeError) as exc:
        if args.debug:
            raise
        _settle_output()
        # A library's words, quoted in a message, may have many lines.
        print(f"kdhpc: {' '.join(_words(exc, args).split())}", file=sys.stderr)
        return exc.exit_code if isinstance(exc, KdhpcError) else 1


@contextlib.contextmanager
def _existing_streams() -> Iterator[Unheard]:
    """Let standard output and error exist, where whoever started this process has closed them."""
    before, unheard = (sys.stdout, sys.stderr), Unheard()
    sys.stdout, sys.stderr = (cast(TextIO, unheard) if stream is None else stream for stream in before)
    try:
        yield unheard if before[0] is None else Unheard()
    finally:
        sys.stdout, sys.stderr = before


def _settle_output() -> None:
    """Write what waits to be written; where that is refused, as by a full disk, it is given up."""
    try:
        sys.stdout.flush()
    except OSError:
        _write_nothing_more()


def _write_nothing_more() -> None:
    """Nothing is left that would be flushed, and fail, at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complete() -> None:
    """A shell asks what Tab may complete: answer, and end."""
    from kdhpc.cli.completers import complete

    complete(build_parser())


def _refuse_option_of_command(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Refuse ``kdhpc --study mine status``, which argparse would take for a command called ``mine``."""
    for word in argv:
        option = word.partition("=")[0]
        if not word.startswith("-"):
            return
        if not any(known.startswith(option) for known in ("--version", "--debug", "--help", "-h")):
            parser.error(f"{option} stands after the command: kdhpc COMMAND {option} ...")


def _parsed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; in ``words`` as they were given, and in ``parsed`` this function, for commands that give others.

    Raises:
        SystemExit: help was asked for and is printed, or a word is wrong, which is told on standard error.
    """
    _refuse_option_of_command(parser, argv)
    args, rest = parser.parse_known_args(argv)
    # argparse takes overrides only where they stand together; people also write some after an option.
    overrides = getattr(args, "overrides", None)
    # An unknown option first: its value is the override that none can be.
    for word in (*(word for word in rest if word.startswith("-")), *(overrides or ()), *rest):
        if overrides is None or not is_override(word):
            args.parser.refuse_word(word, argv)
    if rest:
        args.overrides = [*args.overrides, *rest]
    args.words, args.parsed = list(argv), functools.partial(_parsed, parser)
    return args


def _words(exc: KdhpcError | OSError | UnicodeError, args: argparse.Namespace) -> str:
    """The message; of the system's own errors the path, which people can do something about, and what is wrong."""
    if isinstance(exc, OSError):
        return f"{exc.filename or 'standard output or a file'}: {exc.strerror or exc}"
    if isinstance(exc, (UnicodeDecodeError, UnicodeEncodeError)):
        # Not all of it: it may hold a password.
        culprit = exc.object[exc.start : exc.end]
        return f"{culprit!r}, in a path, a name, a setting or a file, is no text in {exc.encoding}: rename or mend it"
    is_unknown = isinstance(exc, UnknownStudyError) or isinstance(exc.__cause__, (UnknownStudyError, DatabaseError))
    if is_unknown and (named := study_of_environment(args)):
        return f"{exc} (KDHPC_STUDY={named} names this study)"
    return str(exc)


if __name__ == "__main__":
    sys.exit(main())
