"""A parsed JSON document that knows where each of its values stands, so that errors can name file and field."""

import json
import math
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from kdhpc.errors import GraphError, nearest
from kdhpc.graph.names import OpenName
from kdhpc.printing import one_line

_LONGEST_NAME = 200
Choice = TypeVar("Choice", bound=OpenName)


@dataclass(frozen=True, kw_only=True)
class Value:
    """A value and its place; the methods say what it must be, and give it so.

    Raises:
        GraphError: it is something else.
    """

    value: object
    """As JSON has it."""
    origin: str
    """The file, or what else the text came from."""
    place: str = ""
    """Such as ``edges[2].gate``; empty for the whole document."""

    def fail(self, problem: str) -> NoReturn:
        """Report a problem with this value."""
        raise GraphError(": ".join(part for part in (self.origin, self.place, problem) if part))

    def fields(self, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, "Value"]:
        """The fields of an object that has all required ones and no unknown ones."""
        fields = self.any_fields()
        for name in fields:
            if name not in required + optional:
                self.fail(f"unknown field '{name}': {nearest(name, required + optional)}")
        for name in required:
            if name not in fields:
                self.fail(f"field '{name}' is missing: required are {', '.join(required)}")
        return fields

    def any_fields(self) -> dict[str, "Value"]:
        """The fields of an object."""
        if not isinstance(self.value, dict):
            self.fail(f"{self.shown} is not allowed: must be an object")
        prefix = f"{self.place}." if self.place else ""
        return {name: Value(value=v, origin=self.origin, place=prefix + name) for name, v in self.value.items()}

    def items(self) -> list["Value"]:
        """The items of a list; they count from 0 in messages, as JSON tools count them."""
        if not isinstance(self.value, list):
            self.fail(f"{self.shown} is not allowed: must be a list")
        return [Value(value=v, origin=self.origin, place=f"{self.place}[{i}]") for i, v in enumerate(self.value)]

    def integer(self, low: int, high: int | None = None) -> int:
        """An integer from ``low`` to ``high``."""
        allowed = f"{low} to {high}" if high is not None else f"{low} or more"
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            self.fail(f"{self.shown} is not allowed: must be an integer, {allowed}")
        if self.value < low or (high is not None and self.value > high):
            self.fail(f"{self.shown} is not allowed: must be {allowed}")
        return self.value

    def choice(self, kind: type[Choice]) -> Choice:
        """A member of an open set of names."""
        if isinstance(self.value, str) and self.value in set(kind):
            return kind(self.value)
        self.fail(f"{self.shown} is not allowed: {nearest(str(self.value), kind)}")

    def name(self) -> str:
        """A text that can be printed in a line, without spaces at its ends."""
        text = self.value
        if not isinstance(text, str) or not text or text != one_line(text).strip() or len(text) > _LONGEST_NAME:
            self.fail(f"{self.shown} is not allowed: must be a name")
        return text

    def scalar(self) -> str | int | float:
        """A string or a finite number."""
        if isinstance(self.value, bool) or not isinstance(self.value, (str, int, float)):
            self.fail(f"{self.shown} is not allowed: must be a string or a number")
        if isinstance(self.value, float) and not math.isfinite(self.value):
            self.fail(f"{self.shown} is not allowed: must be a finite number")
        return self.value

    @property
    def shown(self) -> str:
        """The value for a message, cut where it is long."""
        text = json.dumps(self.value, default=repr)
        return text if len(text) <= 40 else f"{text[:37]}..."


def parse(text: str, *, origin: str) -> Value:
    """A JSON text, stricter than Python's parser: no field twice, no NaN or infinity.

    Raises:
        GraphError: it is not such a text.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in pairs:
            if name in found:
                raise GraphError(f"{origin}: field '{name}' is there twice in one object: keep one of them")
            found[name] = value
        return found

    def refuse(constant: str) -> NoReturn:
        raise GraphError(f"{origin}: {constant} is not a JSON number: write a finite one or a string")

    try:
        return Value(value=json.loads(text, object_pairs_hook=unique, parse_constant=refuse), origin=origin)
    except (ValueError, RecursionError) as exc:
        raise GraphError(f"{origin} is not a JSON document: {exc}") from exc
