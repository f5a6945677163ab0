"""Every error that kdhpc raises on purpose.

KdhpcError                   exit 1: one line, no traceback (use --debug to see it)
├── UsageError               exit 2: an argument, option or override that is not valid
│   └── ConfigError          a config key or value
│       └── NetworkError     a network's name, its weights, or a shape that it cannot serve
├── GraphError               a graph, or a file that should hold one
├── DataError                a source of images, a packed data set
├── BundleError              a run that cannot be exported in a format
├── StudyError               the shared study
│   ├── UnknownStudyError    no study of that name
│   ├── StudyMismatchError   a study re-opened with something that it was not made with
│   └── LeaseLostError       another worker owns the slot now
├── DatabaseError            PostgreSQL unreachable, or not able to do what was asked
│   └── DatabaseAwayError    the embedded server is stopped: it may be started again
├── CheckpointError          a checkpoint that is damaged or belongs to another trial
├── DivergedError            a training whose numbers became infinite or NaN
├── RunTakenError            another process trains the same final training
├── StorageError             a disk or file system that refuses: full, closed to this user, or failing
├── DeviceError              a GPU that cannot go on: its memory is used up
│   └── DeviceLostError      this process can use it no more
│       └── CaptureError     because recording a CUDA graph failed
└── ClusterError             launching, or talking to the batch system
    └── ClusterBusyError     the batch system is away or busy: the same may succeed later

A message names the thing, the value that it has, what is allowed, and what to do next.
"""

import difflib
from collections.abc import Iterable


class KdhpcError(Exception):
    """Base of all errors that are reported as one line."""

    exit_code = 1


class UsageError(KdhpcError):
    """An argument, option or override that is not valid."""

    exit_code = 2


class ConfigError(UsageError):
    """A config key that does not exist, or a value that is not allowed."""


class NetworkError(ConfigError):
    """A network that does not exist, weights that are not its own, or a shape that it cannot serve."""


class GraphError(KdhpcError):
    """A graph that is not well formed, or a file that does not hold one."""


class DataError(KdhpcError):
    """A source of images or a packed data set that cannot be used."""


class BundleError(KdhpcError):
    """A run cannot be exported in a format, or what was exported does not predict what the run does."""


class StudyError(KdhpcError):
    """The shared study refuses what was asked."""


class UnknownStudyError(StudyError):
    """No study of that name is in the database."""


class StudyMismatchError(StudyError):
    """A study was re-opened with a graph space, data split or seed that it was not made with."""


class LeaseLostError(StudyError):
    """The slot's lease ended and another worker owns the slot: stop the trial, report nothing."""


class DatabaseError(KdhpcError):
    """PostgreSQL cannot be reached, or cannot do what was asked."""


class DatabaseAwayError(DatabaseError):
    """The embedded server is recorded as stopped, so no connection is tried; it may be started again."""


class CheckpointError(KdhpcError):
    """A checkpoint that is damaged, or belongs to another trial."""


class DivergedError(KdhpcError):
    """A final training whose numbers became infinite or NaN: there is nothing to score, and nothing to keep."""


class RunTakenError(KdhpcError):
    """Another process has begun the same final training: this one stops, and writes nothing more."""


class StorageError(KdhpcError):
    """A disk or file system refuses to write or to read. The data itself is not at fault."""


class DeviceError(KdhpcError):
    """A GPU cannot go on with its work: its memory is used up."""


class DeviceLostError(DeviceError):
    """This process cannot use its GPU any more, whatever it does. Another process may be able to."""


class CaptureError(DeviceLostError):
    """Recording a CUDA graph failed, and could not be undone. What was to be recorded is not to blame."""


class ClusterError(KdhpcError):
    """A launch failed, or the batch system did not answer as it should."""


class ClusterBusyError(ClusterError):
    """The batch system is away, or too busy to do what was asked; it has not refused it."""


def nearest(value: str, allowed: Iterable[str]) -> str:
    """The closing words of an error about a name: the nearest allowed one, and all of them.

    Returns:
        For example ``did you mean 'dogs4'? allowed: dogs2, dogs3, dogs4``.
    """
    names = sorted(allowed)
    match = closest(value, names)
    hint = "" if match is None else f"did you mean '{match}'? "
    return f"{hint}allowed: {', '.join(names) if names else '(none)'}"


def closest(value: str, allowed: Iterable[str]) -> str | None:
    """The name that was probably meant; None: none is near."""
    return next(iter(near(value, allowed, at_most=1)), None)


def near(value: str, allowed: Iterable[str], *, at_most: int) -> tuple[str, ...]:
    """The names that are like a value, in capitals or not, the nearest first.

    The nearest of all have it as initials: ``training.lr`` is ``training.learning_rate``.
    """
    names = {name.casefold(): name for name in allowed}
    short = [name for name in names if "_" in name and _initials(name) == value.casefold()]
    alike = difflib.get_close_matches(value.casefold(), names, n=at_most)
    return tuple(names[match] for match in dict.fromkeys([*short, *alike]))[:at_most]


def _initials(key: str) -> str:
    """Of the last part of a config key: ``training.wd`` for ``training.weight_decay``."""
    group, dot, name = key.rpartition(".")
    return group + dot + "".join(word[:1] for word in name.split("_"))
