"""Strict JSON: without NaN and Infinity, which are not in the standard, and not nested too deep."""

import json
import math
from collections.abc import Iterable

_MAX_DEPTH = 64
"""Most levels of a document. Those that kdhpc writes have fewer than ten."""


def strict_json(document: object, *, indent: int | None = None) -> str:
    """A document as strict JSON. NaN and infinite numbers become ``null``."""
    return json.dumps(_without_nan(document), indent=indent, allow_nan=False)


def parse_json(text: str | bytes) -> object:
    """Parse strict JSON.

    Raises:
        ValueError: the text is not JSON, has NaN or Infinity, or is nested more than 64 levels deep.
    """
    try:
        document: object = json.loads(text, parse_constant=_refuse)
    except RecursionError as exc:
        raise ValueError("it is nested too deep") from exc
    # Python's parser accepts a depth at which comparing or writing the document would exceed the recursion limit.
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
