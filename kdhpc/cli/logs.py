"""``kdhpc logs``: what a study's workers write, now or as it comes. Reads only."""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.moments import ago
from kdhpc.cli.study_argument import add_study_argument, chosen_study, named_study
from kdhpc.cli.table import Part, Table, show
from kdhpc.config.paths import StudyPaths
from kdhpc.errors import DatabaseError, StorageError, StudyError, UnknownStudyError, UsageError
from kdhpc.study.numbers import trial_label, trial_words

if TYPE_CHECKING:
    from kdhpc.searching.following import LogLine
    from kdhpc.searching.worker_logs import WorkerLog
    from kdhpc.study.attempts import KnownWorker
    from kdhpc.study.storage import Storage

_PATIENCE_S = 5.0
_ROWS_SHOWN = 10
_TRIALS_SHOWN = 4
_DESCRIPTION = """\
Shows the last lines of a worker's log: of the worker that wrote last, of the
one that is named, or of those that trained a trial, and then only what they
wrote about it. Which logs there are stands on stderr. Changes nothing.
Of a study that is named, logs are shown even while the database is away.
"""
_EPILOG = """\
examples:
  kdhpc logs                          the latest log, and which others there are
  kdhpc logs --trial 17               what workers wrote about a trial
  kdhpc logs --trial given 1 -n 200   of a given trial, and more of it
  kdhpc logs --worker 8123_4          of a worker: its job, or HOST:PID
  kdhpc logs --follow                 all logs of the study, as they are written

--follow ends with Ctrl-C; by itself once the trial has ended, or without
--trial once the study is done, or is stopped and nobody works on it. Logs that
were replaced or emptied are read from their beginning, new ones are taken up.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "logs",
        help="what a study's workers write",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add_study_argument(parser)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--trial", nargs="+", metavar="N", help="what was written about this trial; of a given one as `given 1`"
    )
    chosen.add_argument("--worker", metavar="W", help="of this worker: its job, or HOST:PID")
    parser.add_argument("--follow", action="store_true", help="go on with what is written from now on")
    parser.add_argument("-n", type=_count, default=20, metavar="LINES", help="lines to begin with (default: 20)")
    parser.set_defaults(func=run)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not 0 or more")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Show them."""
    from kdhpc.cli.trial import trial_of
    from kdhpc.searching.following import LogReader, follow

    number = None if args.trial is None else trial_of(args.trial)
    chosen = _Chosen(args, number)
    logs = chosen.find()
    if not logs and not args.follow:
        raise StorageError(chosen.nothing())
    is_whole_study = number is None and args.worker is None
    if is_whole_study and len(logs) > 1:
        show(*_listed(logs, chosen), stream=sys.stderr)
    reader, printed = LogReader(trial=number, tell=_tell), _Printed()
    shown = logs[-1:] if is_whole_study else logs
    reader.skip(logs[: len(logs) - len(shown)])
    for line in reader.last_lines(shown, args.n):
        printed(line)
    if args.follow:
        follow(reader, chosen.find_again, chosen.is_over, printed)
    else:
        for line in reader.rest():
            printed(line)
    if number is not None and args.n and printed.path is None:
        _tell(f"nothing about the trial is in {', '.join(str(log.path) for log in logs) or 'any log'}")
    return 0


class _Chosen:
    """The logs that are meant, and what is known of them.

    Raises:
        DatabaseError: it is away, and no study is named.
        UnknownStudyError: there is no such study.
    """

    def __init__(self, args: argparse.Namespace, trial: int | None) -> None:
        self._worker: str | None = args.worker
        self._trial = trial
        self._storage: Storage | None = None
        self._found: tuple[WorkerLog, ...] = ()
        named = named_study(args)
        try:
            self.study = chosen_study(args, self._connected())
        except DatabaseError as exc:
            if named is None:
                raise
            self.study = named
            _tell(f"{exc}; logs are shown by their files alone")

    def find(self) -> "tuple[WorkerLog, ...]":
        """The logs, by when they were last written.

        Raises:
            UsageError: no worker has that name.
            StudyError: no worker has begun the trial.
            StorageError: the worker's log is gone, or the file system refuses.
        """
        from kdhpc.searching.worker_logs import logs_of_attempt, logs_of_worker, read_logs
        from kdhpc.study.trial_history import read_course

        logs = read_logs(self.study)
        if self._worker is not None:
            logs = logs_of_worker(logs, self.workers(), self._worker)
        elif self._trial is not None and self._storage is not None:
            attempts = read_course(self._storage, self.study, self._trial).attempts
            paths = {log.path for attempt in attempts for log in logs_of_attempt(logs, attempt)}
            logs = tuple(log for log in logs if log.path in paths)
        self._found = logs
        return logs

    def find_again(self) -> "tuple[WorkerLog, ...]":
        """As :meth:`find`; what was found before, while that cannot be answered."""
        with suppress(DatabaseError, StorageError, StudyError, UsageError):
            return self.find()
        return self._found

    def workers(self) -> "tuple[KnownWorker, ...]":
        """Whom the study's trials remember; empty: the database is away."""
        from kdhpc.study.attempts import read_workers

        return () if self._storage is None else read_workers(self._storage, self.study)

    def is_over(self) -> bool:
        """Whether nothing is to be written any more; False while the database is away."""
        from kdhpc.study.study_list import is_at_rest
        from kdhpc.study.trial_history import read_course

        try:
            storage = self._connected()
            if self._trial is not None:
                return read_course(storage, self.study, self._trial).has_ended
            return is_at_rest(storage, self.study)
        except UnknownStudyError:  # It was deleted.
            return True
        except (DatabaseError, StudyError):
            return False

    def nothing(self) -> str:
        """Why there is no log."""
        folder = StudyPaths.of(self.study).jobs
        if self._trial is None:
            return f"no worker of study '{self.study}' has a log in {folder}: they were started by hand, or not yet"
        return (
            f"{trial_words(self._trial)} has no log in {folder}: its workers were started by hand (`kdhpc worker`), or "
            f"the logs were removed; `kdhpc trial {trial_label(self._trial)} --study {self.study}` names its workers"
        )

    def _connected(self) -> "Storage":
        from kdhpc.study.storage import Storage

        if self._storage is None:
            self._storage = Storage.connect(patience_s=_PATIENCE_S)
        return self._storage


class _Printed:
    """Prints lines, and before them from which log they are."""

    def __init__(self) -> None:
        self.path: Path | None = None
        """The log of the last line."""

    def __call__(self, line: "LogLine") -> None:
        """Print it."""
        if line.path != self.path:
            print(f"{'' if self.path is None else chr(10)}==> {line.path} <==")
        self.path = line.path
        print(line.text, flush=True)


def _tell(text: str) -> None:
    print(f"kdhpc: {text}", file=sys.stderr, flush=True)


def _listed(logs: "Sequence[WorkerLog]", chosen: _Chosen) -> list[Part]:
    """The latest logs, and whose they are."""
    workers, now = chosen.workers(), time.time()
    rows = []
    for log in logs[-_ROWS_SHOWN:]:
        own = [worker for worker in workers if log.is_of(worker.job)]
        trials = dict.fromkeys(number for worker in own for number in worker.trials)
        rows.append(
            (
                log.job,
                ", ".join(f"{worker.host}:{worker.pid}" for worker in own) or "-",
                ", ".join(map(trial_label, trials)) if len(trials) <= _TRIALS_SHOWN else f"{len(trials)} trials",
                f"{log.size / 1e6:.1f} MB" if log.size >= 1e5 else f"{log.size / 1e3:.1f} kB",
                ago(max(0.0, now - log.modified)),
                f"{log.launch}/{log.path.name}",
            )
        )
    head = ("job", "worker", "trials", "size", "written", "log")
    more = f", the latest {len(rows)} of {len(logs)}" if len(logs) > len(rows) else ""
    return [
        f"logs of study {chosen.study} in {StudyPaths.of(chosen.study).jobs}{more}:",
        Table(head=head, rows=rows, spare=("log", "trials", "size")),
        "",
    ]
