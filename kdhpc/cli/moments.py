"""Moments for people."""

import time

from kdhpc.cli.progress import duration

_DAY_S = 86400


def ago(seconds: float) -> str:
    """``4 s ago``, ``12 min ago``, ``3.5 h ago``, ``9 days ago``."""
    return f"{duration(seconds)} ago" if seconds < 2 * _DAY_S else f"{seconds / _DAY_S:.0f} days ago"


def clock(moment: float) -> str:
    """Seconds since 1970 as date and time of this machine's time zone: ``2026-11-29 11:40:05``."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def utc(moment: float) -> str:
    """Seconds since 1970 for programs: ``2026-11-29T11:40:05Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
