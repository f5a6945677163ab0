"""Options and config keys that are given twice: what contradicts itself is refused, what has an order is told."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdhpc.errors import UsageError


class StoreOnce(argparse.Action):
    """What argparse does by default, but an option that is given twice must have the same value both times."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value."""
        given: dict[str, object] = namespace.__dict__.setdefault("given_options", {})
        if option_string is not None and _shown(given.setdefault(self.dest, values)) != _shown(values):
            raise argparse.ArgumentError(
                self, f"given twice, as {_shown(given[self.dest])} and as {_shown(values)}: give it once"
            )
        setattr(namespace, self.dest, values)


def refuse_contradiction(args: argparse.Namespace) -> None:
    """Refuse an option beside an override of the key that it stands for, with another value.

    Args:
        args: ``option_keys`` are the keys by the options' destinations, if the command has such options.

    Raises:
        UsageError: the message has both.
    """
    keys: Mapping[str, str] = getattr(args, "option_keys", {})
    for key, value in _overrides(getattr(args, "overrides", ())):
        for dest, known in keys.items():
            given = getattr(args, dest, None)
            if known == key and given is not None and str(given) != value:
                option = f"--{dest.replace('_', '-')}"
                raise UsageError(f"{option} {given} and {key}={value} contradict each other: give one of them")


def tell_of_doubles(args: argparse.Namespace) -> None:
    """Say which of two values of a config key counts: scripts may add overrides to others."""
    given: dict[str, str] = {}
    for key, value in _overrides(getattr(args, "overrides", ())):
        if given.get(key, value) != value:
            print(f"kdhpc: {key} is given twice, as {given[key]} and as {value}: the last counts", file=sys.stderr)
        given[key] = value


def _overrides(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        key, equals, value = word.lstrip("+").partition("=")
        if equals:
            yield key, value


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
