"""Open sets of names: kdhpc's own members are there from the beginning, and a plug-in adds others.

A member is a string, and there is one object a name: members are compared with ``is``, also after a copy or a pickle.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

_Member = TypeVar("_Member", bound="OpenName")


class _OpenSet(type):
    """Lets a class be iterated over, as an enum can be."""

    def __iter__(cls: type[_Member]) -> Iterator[_Member]:  # type: ignore[misc]  # mypy: of the classes that have it
        """All members: kdhpc's own in their order, then those of plug-ins by name, whatever was imported first."""
        known = cls._known.values()
        yield from (member for member in known if member.is_built_in)
        yield from sorted(member for member in known if not member.is_built_in)

    def __reversed__(cls: type[_Member]) -> Iterator[_Member]:  # type: ignore[misc]
        return reversed(tuple(cls))


class OpenName(str, metaclass=_OpenSet):
    """A member of an open set; each subclass is a set. Calling the subclass with a name gives the member.

    Raises:
        ValueError: the set has no such member.
    """

    _known: ClassVar[dict[str, Any]]
    is_built_in: bool
    """Whether it is kdhpc's, and no plug-in's."""

    def __init_subclass__(cls) -> None:
        cls._known = {}

    def __new__(cls: type[_Member], name: str) -> _Member:
        """The member of that name."""
        if name not in cls._known:
            raise ValueError(f"{name!r} is no {cls.__name__.lower()}")
        found: _Member = cls._known[name]
        return found

    def __reduce__(self) -> tuple[type["OpenName"], tuple[str]]:
        return type(self), (str(self),)

    def __copy__(self: _Member) -> _Member:
        return self

    def __deepcopy__(self: _Member, memo: object) -> _Member:
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r})"

    @property
    def value(self) -> str:
        """The name as a plain string."""
        return str(self)

    @classmethod
    def add(cls: type[_Member], name: str, *, is_built_in: bool = False) -> _Member:
        """Make a name a member. Only ``kdhpc.graph.catalogue`` does, with all that a member needs; one stays the same.

        Args:
            name: The name.
            is_built_in: Whether it is kdhpc's.
        """
        if name not in cls._known:
            member = str.__new__(cls, name)
            member.is_built_in = is_built_in
            cls._known[name] = member
        return cls(name)
