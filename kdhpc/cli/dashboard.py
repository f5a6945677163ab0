"""``kdhpc dashboard``: optuna-dashboard, for the studies of the database in use."""

import argparse
import os
import sys
from typing import TYPE_CHECKING

from kdhpc.cli.study_argument import chosen_study, named_study
from kdhpc.errors import UsageError

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from kdhpc.study.storage import Storage

_PATIENCE_S = 20.0
_PORT = 8080
_LOOPBACK = "127.0.0.1"
_PARAMETER_S = 5e-5
"""Time of one core for each parameter of each trial, until the page of a study has come: measured on 2026-11-29 for
1,000 trials of 4 nodes (1.5 s) and 6,000 trials of 3 and 5 nodes (6 and 13 s)."""
_SLOW_S = 5.0
"""Longer is told."""
_DESCRIPTION = """\
Starts optuna-dashboard for a study and its given trials, or for all studies of the database, until Ctrl-C. Prints the
address to open, and the ssh line for a browser on your own machine. The dashboard listens on this machine's loopback
alone, and the address has a token: other people who are logged in here see nothing. Each trial has the drawing of its
graph among its artifacts. A search goes on undisturbed: through this dashboard, notes can be written, and nothing else
can be changed or deleted. It needs the extra `optuna`.
"""
_EPILOG = """\
examples:
  kdhpc dashboard                       all studies
  kdhpc dashboard --study mine          one, and its given trials
  kdhpc dashboard --port 8123
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "dashboard",
        help="look at studies in a browser, by optuna-dashboard",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--study", metavar="NAME", help="show this study and its given trials alone (default: $KDHPC_STUDY, else all)"
    )
    parser.add_argument(
        "--port", type=_port, metavar="N", help=f"of this machine (default: {_PORT}, or another one that is free)"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: optuna-dashboard is not installed.
        UsageError: there is no study, or the port cannot be had.
        DatabaseError: the server does not answer.
        KeyboardInterrupt: the user has seen enough.
    """
    import secrets

    from kdhpc.log import log_to_stderr
    from kdhpc.searching.dashboard import dashboard_app, page_of
    from kdhpc.study.storage import Storage

    log_to_stderr()
    storage = Storage.connect(patience_s=_PATIENCE_S)
    study = chosen_study(args, storage) if named_study(args) else None
    told = _told_of_size(storage, study)
    token = secrets.token_urlsafe(16)
    app = dashboard_app(storage, study, token=token)
    page = f"{page_of(storage, study)}?token={token}"
    with _listen(args.port) as server:
        server.set_app(app)
        print(*_said(server.server_port, page, study), sep="\n", flush=True)
        print(*told, sep="\n", end="\n" if told else "", file=sys.stderr, flush=True)
        server.serve_forever()
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 1 to 65535")
    return int(text)


def _told_of_size(storage: "Storage", study: str | None) -> list[str]:
    """Lines about studies whose pages take long.

    Raises:
        UsageError: there is no study.
    """
    from kdhpc.study.study_list import read_studies

    studies = read_studies(storage)
    if not studies:
        raise UsageError("there is no study yet: make one with `kdhpc search --study NAME`")
    told = []
    for entry in studies:
        nodes = entry.num_nodes or 0
        takes_s = entry.finished * (nodes + 2 * nodes * (nodes - 1)) * _PARAMETER_S
        if takes_s >= _SLOW_S and study in (None, entry.study):
            told.append(
                f"kdhpc: study {entry.study} has {entry.finished:,} trials: its page takes about {takes_s:.0f} s, "
                "and again when it is loaded after a change; the browser takes longer"
            )
    return told


def _listen(port: int | None) -> "WSGIServer":
    """A server on a port of this machine's loopback.

    Args:
        port: None: the usual one, or where another program has that, any.

    Raises:
        UsageError: the port cannot be had.
    """
    import errno

    from kdhpc.searching.dashboard_server import open_server

    try:
        return open_server(_LOOPBACK, _PORT if port is None else port)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE and port is None:
            return open_server(_LOOPBACK, 0)
        why = "another program has it" if exc.errno == errno.EADDRINUSE else exc.strerror or str(exc)
        raise UsageError(f"--port {port or _PORT}: {why}: give another one, or none for one that is free") from exc


def _said(port: int, page: str, study: str | None) -> list[str]:
    shown = "all studies" if study is None else f"study {study}"
    return [
        f"address  http://{_LOOPBACK}:{port}{page}",
        f"ssh      {_ssh_line(port)}",
        f"shows {shown} until Ctrl-C; from your own machine, give it the ssh line, then open the address there",
    ]


def _ssh_line(port: int) -> str:
    """For the user's own machine. To a node of a job, the way goes by where the job was submitted."""
    import getpass
    import socket

    user, host = getpass.getuser(), socket.gethostname()
    submitted = os.environ.get("SLURM_SUBMIT_HOST") if os.environ.get("SLURM_JOB_ID") else None
    way = f"-J {user}@{submitted} " if submitted and submitted != host else ""
    return f"ssh -N -L {port}:{_LOOPBACK}:{port} {way}{user}@{host}"
