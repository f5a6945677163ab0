"""JSON that every reader takes, and that none reads as more than it says."""

import json
import math
from collections.abc import Iterable

_MAX_DEPTH = 64
"""Of JSON; documents of kdhpc's own have less than ten levels."""


def strict_json(document: object, *, indent: int | None = None) -> str:
    """JSON that every reader takes: a number that is none (nan, infinite) is ``null``."""
    return json.dumps(_without_nan(document), indent=indent, allow_nan=False)


def parse_json(text: str | bytes) -> object:
    """The document in a text.

    Raises:
        ValueError: it is no JSON, or has NaN or Infinity, which are none, or is nested deeper than anything that means
            something.
    """
    try:
        document: object = json.loads(text, parse_constant=_refuse)
    except RecursionError as exc:
        raise ValueError("it is nested too deep") from exc
    # Python reads what it can then neither compare nor write down.
    level = [document]
    for _ in range(_MAX_DEPTH):
        level = [part for value in level for part in _parts(value)]
        if not level:
            return document
    raise ValueError("it is nested too deep")


def _parts(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _without_nan(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, (list, tuple)) else value
