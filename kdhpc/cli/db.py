"""``kdhpc db``: the embedded PostgreSQL, for those who have no database server; and deleting a study."""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.config.paths import StudyPaths, server_dir
from kdhpc.errors import DatabaseAwayError, DatabaseError, UsageError
from kdhpc.words import counted

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from kdhpc.server.control import ServerOptions
    from kdhpc.server.endpoint import Endpoint
    from kdhpc.study.upgrading import Plan

_WORKERS = 100
_START_EPILOG = """\
examples:
  kdhpc db start                                        for this machine
  kdhpc db start --listen all --allow 10.0.0.0/8        for workers on other machines, too
"""


def add_parser(subparsers: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``db`` and its commands."""
    parser = subparsers.add_parser(
        "db",
        help="the embedded PostgreSQL: start, stop, status, url; delete-study, upgrade",
        description="The embedded PostgreSQL, in $KDHPC_RUNS/db. $KDHPC_STORAGE, if set, is used instead.",
        epilog="example:\n  kdhpc db start --listen all     also for workers on other machines",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_start(commands)
    stop = commands.add_parser(
        "stop", help="write a dump, then shut the server down", epilog="example:\n  kdhpc db stop"
    )
    stop.set_defaults(func=_stop)
    status = commands.add_parser(
        "status", help="exit 0 if the server answers, else 1", epilog="example:\n  kdhpc db status --format json"
    )
    status.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    status.set_defaults(func=_status)
    url = commands.add_parser(
        "url",
        help="the server's URL for Optuna and its tools; it holds no password",
        epilog='example:\n  optuna-dashboard "$(kdhpc db url)"',
    )
    url.set_defaults(func=_url)
    delete = commands.add_parser(
        "delete-study",
        help="delete a study from the database",
        description="Deletes a study that no worker works on: its rows in the database, its checkpoints, and the "
        "files of its jobs. Jobs that wait are cancelled. Logs, metrics and exported graphs in runs/ stay.",
        epilog="example:\n  kdhpc db delete-study mine --yes",
    )
    delete.add_argument("study", metavar="NAME", help="the study")
    delete.add_argument("--yes", action="store_true", help="delete it even if trials were trained, which are lost then")
    delete.set_defaults(func=_delete_study)
    upgrade = commands.add_parser(
        "upgrade",
        help="move the tables of an older kdhpc up to those of this one",
        description="Shows what would bring the tables of the database in use to the version that this kdhpc needs. "
        "With --yes, does it in one transaction. No worker may run. A dump of the embedded server is written first.",
        epilog="example:\n  kdhpc db upgrade     what would be done",
    )
    upgrade.add_argument("--yes", action="store_true", help="do it, instead of only saying what would be done")
    upgrade.set_defaults(func=_upgrade)


def _add_start(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    start = commands.add_parser("start", help="make sure that the server runs", epilog=_START_EPILOG)
    start.add_argument(
        "--listen",
        default="127.0.0.1",
        metavar="HOST",
        help="this machine's name or address for the workers, or `all` interfaces; default: this machine only",
    )
    start.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="NETWORK",
        help="with --listen: a network that may connect, such as 10.0.0.0/8; can be repeated; default: this machine's",
    )
    start.add_argument("--port", type=int, help="TCP port (default: that of the last start, or any free one)")
    start.add_argument(
        "--workers", type=int, default=_WORKERS, help="how many may be connected at once (default: %(default)s)"
    )
    start.add_argument(
        "--take-over",
        action="store_true",
        help="start here although the server was not stopped where it ran: only if that machine is down for certain",
    )
    start.set_defaults(func=_start)


def _start(arguments: argparse.Namespace) -> int:
    from kdhpc.server.control import ServerOptions, start
    from kdhpc.server.endpoint import is_loopback
    from kdhpc.server.ownership import TakeOver

    if arguments.allow and is_loopback(arguments.listen):
        raise UsageError("--allow has no meaning without --listen: give --listen all, or a name of this machine")
    options = ServerOptions(
        listen=arguments.listen, allow=tuple(arguments.allow), port=arguments.port, workers=arguments.workers
    )
    started = start(server_dir(), options, take_over=TakeOver() if arguments.take_over else None)
    where = f"PostgreSQL at {started.endpoint.host}:{started.endpoint.port} (process {started.endpoint.pid})"
    if started.already:
        _refuse_other_options(where, started.endpoint, options)
        without = [
            *(["--allow"] if options.allow else []),
            *([f"--workers {options.workers}"] if options.workers != _WORKERS else []),
        ]
        more = f"; {' and '.join(without)} {'change' if len(without) > 1 else 'changes'} nothing" if without else ""
        print(f"{where} was running already, with the options of its start{more}", file=sys.stderr)
    else:
        print(f"{where} started", file=sys.stderr)
    _warn_of_another_server()
    return 0


def _warn_of_another_server() -> None:
    if os.environ.get("KDHPC_STORAGE"):
        print("warning: KDHPC_STORAGE is set, so kdhpc uses the server named there and not this one", file=sys.stderr)


def _refuse_other_options(where: str, endpoint: "Endpoint", options: "ServerOptions") -> None:
    """Refuse a running server that is not where it was asked to be.

    Raises:
        DatabaseError: it listens elsewhere, or on another port.
    """
    from kdhpc.server.endpoint import is_loopback

    is_local = is_loopback(endpoint.host)
    wants_others = not is_loopback(options.listen)
    elsewhere = wants_others and (is_local or options.listen not in ("all", endpoint.host))
    if elsewhere or options.port not in (None, endpoint.port):
        asked = f"--listen {options.listen}" if elsewhere else f"--port {options.port}"
        raise DatabaseError(
            f"{where} was running already, {'for this machine only, ' if is_local else ''}so {asked} has no effect: "
            "`kdhpc db stop`, then this again; workers that run wait for it"
        )


def _stop(arguments: argparse.Namespace) -> int:
    from kdhpc.server.control import stop

    stopped = stop(server_dir())
    if stopped.warning:
        print(f"warning: no dump was written: {stopped.warning}", file=sys.stderr)
    if stopped.dump:
        print(f"dump: {stopped.dump}", file=sys.stderr)
    print("PostgreSQL stopped" if stopped.was_running else "PostgreSQL was not running", file=sys.stderr)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from kdhpc.server.control import running, unstopped
    from kdhpc.server.proof import described

    folder = server_dir()
    endpoint = running(folder)
    _warn_of_another_server()
    if arguments.format == "json":
        found = asdict(endpoint) if endpoint else {}
        print(json.dumps({"running": endpoint is not None, "folder": str(folder), **found}))
    elif endpoint:
        print(f"running  {endpoint.host}:{endpoint.port}")
        print(f"process  {endpoint.pid} on {endpoint.node}, since {endpoint.started}")
        print(f"folder   {folder}")
    else:
        print(f"not running  {folder}")
        if last := unstopped(folder):
            print(f"not stopped  {last.problem or described(last)}: `kdhpc db start` tells whether it has ended")
    return 0 if endpoint else 1


def _url(arguments: argparse.Namespace) -> int:
    from kdhpc.server.address import EmbeddedAddress

    address = EmbeddedAddress(server_dir())
    _warn_of_another_server()
    try:
        url = address()
    except DatabaseAwayError as exc:
        raise DatabaseError(f"no server runs in {server_dir()} ({exc}): {address.hint}") from exc
    print(url.render_as_string(hide_password=False))
    return 0


def _delete_study(arguments: argparse.Namespace) -> int:
    from kdhpc.study.storage import Storage
    from kdhpc.study.study import SharedStudy

    name: str = arguments.study
    study = SharedStudy.open(Storage.connect(), name)
    begun = study.num_begun() + sum(len(result.values) for result in study.given())
    if begun and not arguments.yes:
        raise UsageError(
            f"study {name!r} has {counted(begun, 'trial')}: `kdhpc db delete-study {name} --yes` deletes it with them "
            f"(`kdhpc export-best --study {name}` writes its best graphs to files)"
        )
    study.delete()
    paths = StudyPaths.of(name)
    # What tells which jobs are the study's is removed after they were looked for.
    told, jobs = [f"study {name} deleted"], _end_jobs(name)
    if paths.root.exists():
        removed, left = _remove_useless(paths)
        told.append(f"its files in {paths.root} stay, without {removed} that no other study can use")
        told += [f"these could not be removed: {left}"] if left else []
    told += jobs
    print("; ".join(told), file=sys.stderr)
    return 0


def _upgrade(arguments: argparse.Namespace) -> int:
    from kdhpc.study.optuna_tables import check_tables
    from kdhpc.study.slots import TABLES_VERSION
    from kdhpc.study.storage import Storage
    from kdhpc.study.upgrading import check_idle, plan, upgrade

    storage = Storage.connect()
    storage.read(check_tables)
    found = storage.read(plan)
    if found is None or not found.steps:
        print("the database has no studies" if found is None else f"the tables are {TABLES_VERSION}: nothing to do")
        return 0
    dump = None if os.environ.get("KDHPC_STORAGE") else server_dir() / f"kdhpc-tables{found.version}.dump"
    if not arguments.yes:
        _show(found, dump)
        return 0
    check_idle(found)
    if dump is not None:
        from kdhpc.server.control import write_dump

        write_dump(server_dir(), dump)
        print(f"dump: {dump}", file=sys.stderr)
    storage.exclusively(lambda: storage.write(upgrade))
    print(f"the tables are {TABLES_VERSION} now", file=sys.stderr)
    return 0


def _show(found: "Plan", dump: Path | None) -> None:
    """Say what an upgrade would do."""
    print(f"studies: {', '.join(found.studies) or 'none'}")
    for version, step in found.steps:
        print(f"tables {version} to {version + 1}: {step.says}")
    before = 'make a dump first (pg_dump "$KDHPC_STORAGE")' if dump is None else f"a dump is written first ({dump})"
    print(f"Nothing was changed. `kdhpc db upgrade --yes` does this in one transaction; {before}.", file=sys.stderr)
    if found.num_held:
        print(f"Workers hold {counted(found.num_held, 'trial')}: stop them before that.", file=sys.stderr)


def _end_jobs(name: str) -> list[str]:
    """Cancel jobs of a study that have not started: they must not join a later one of its name. What is to be told."""
    from kdhpc.cluster import slurm
    from kdhpc.errors import ClusterError
    from kdhpc.searching.jobs import cancel_waiting, study_jobs

    if not slurm.is_available():
        return []
    try:
        own = slurm.own_job()
        jobs = study_jobs(name, patient=True)
        cancelled = " ".join(cancel_waiting(jobs))
    except ClusterError as exc:
        return [f"jobs of it that wait in the queue are not cancelled: {exc}"]
    running = " ".join(job.job for job in jobs if job.state != "PENDING" and job.job != (own and slurm.here(own)))
    return [
        *([f"cancelled, they had not started: {cancelled}"] if cancelled else []),
        *([f"these jobs still run, and end when they look for the study: {running}"] if running else []),
    ]


def _remove_useless(paths: StudyPaths) -> tuple[str, str]:
    """Remove the checkpoints, and the files that make a launch's jobs work for the study.

    Returns:
        What was removed, and the files that could not be; both in words.
    """
    from kdhpc.files.removing import remove

    checkpoint, launch, config = paths.checkpoint(0), paths.launch("*"), paths.config("*")
    trials = checkpoint.parent.parent
    checkpoints = [
        path
        for folder in (trials, paths.trial(-1).parent)
        for pattern in (f"*/{checkpoint.name}", f"*/.{checkpoint.name}.*")
        for path in folder.glob(pattern)
    ]
    launches = [*launch.parent.glob(launch.name), *config.parent.glob(config.name)]
    left = [path for path in (*checkpoints, *launches) if not remove(path)]
    return (
        f"{counted(len(checkpoints), 'checkpoint')} and {counted(len(launches), 'file')} of launches",
        ", ".join(str(path) for path in left),
    )
