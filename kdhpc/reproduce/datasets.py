"""Which data sets stand for the paper's in a miniature: those that are prepared, or two halves of the only one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kdhpc.config.own_datasets import packed_group, packed_names
from kdhpc.config.paths import packed_dir
from kdhpc.data.packed import read_manifest
from kdhpc.errors import UsageError, nearest
from kdhpc.reproduce.plan import Step

_PREFERRED = ("fashion_mnist", "cifar100", "cifar10")
_HALVES = ("first", "second")
_SMALL = 64
"""Side that large photographs are seen at in a miniature, in pixels."""
_LARGE = 96
_FEW = 2500
"""Of fewer training images, all are used."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The data sets of a plan."""

    names: Mapping[str, object] = field(default_factory=dict)
    """What ``{first}``, ``{one}`` and ``{two}`` stand for."""
    note: str = ""
    """For people; empty: the paper's own."""
    halves: Mapping[str, Step] = field(default_factory=dict)
    """How the halves are prepared, by their names."""

    def preparing(self, data: str) -> Step | None:
        """The step that prepares a data set; None: whoever uses kdhpc has prepared it."""
        return self.halves.get(data)

    def smaller(self, data: str) -> tuple[str, ...]:
        """Overrides by which all of few images are used, and large ones are seen small; none at the paper's scale."""
        whole = data
        for half in _HALVES:
            whole = whole.removesuffix(f"-{half}") if data in self.halves else whole
        group = packed_group(whole) if self.names and whole else None
        if group is None:
            return ()
        num = read_manifest(packed_dir(whole)).train // (2 if whole != data else 1)
        few = ("dataset.subset=null",) if num < _FEW else ()
        if int(str(group["image_size"])) <= _LARGE:
            return few
        return *few, f"dataset.image_size={_SMALL}", f"dataset.resize={_SMALL + _SMALL // 8}"


def paper_datasets() -> Standing:
    """The paper's own."""
    return Standing()


def miniature_datasets(chosen: Sequence[str], *, must_exist: bool = True) -> Standing:
    """The data sets of a miniature.

    Args:
        chosen: Names that the user gave, at most two; none: what is prepared, Fashion-MNIST and CIFAR first. With
            nothing prepared, Fashion-MNIST is taken, as a dry run needs no data.
        must_exist: Whether those that the user gave must be prepared.

    Raises:
        UsageError: more than two, one twice, one without a name, or one that is not prepared.
    """
    packed = packed_names()
    if len(chosen) > 2 or len(set(chosen)) < len(chosen) or not all(chosen):
        raise UsageError(f"--data {','.join(chosen) or repr('')}: give one data set, or two different ones")
    for name in chosen if must_exist else ():
        if name not in packed and name != "fashion_mnist":
            known = nearest(name, packed) if packed else "nothing is"
            raise UsageError(f"--data {name} is not prepared: {known}; see kdhpc data prepare --help")
    whole = [name for name in packed if not _is_half_of_one(name, packed)]
    found = list(chosen) or sorted(whole, key=lambda name: (name not in _PREFERRED, _rank(name), name))[:2]
    found = found or ["fashion_mnist"]
    first = found[0]
    if len(found) == 2:
        return Standing(
            names={"first": first, "one": first, "two": found[1]},
            note=f"{first} stands for Stanford Dogs and {found[1]} for CUB-200-2011",
        )
    halves = {f"{first}-{half}": half for half in _HALVES}
    one, two = halves
    return Standing(
        names={"first": first, "one": one, "two": two},
        note=f"{first} stands for Stanford Dogs; where a table needs two data sets, the first half of its classes "
        "does, and the second half stands for CUB-200-2011",
        halves={name: _half(first, name, half) for name, half in halves.items()},
    )


def _half(data: str, name: str, half: str) -> Step:
    source = str(packed_dir(data))
    return Step(
        kind="prepare",
        name=name,
        data=data,
        commands=(("data", "prepare", "packed", source, "--classes", half, "--name", name),),
    )


def _is_half_of_one(name: str, packed: Sequence[str]) -> bool:
    """Whether a name is what a miniature calls half of a data set that is there."""
    return any(name.endswith(f"-{half}") and name.removesuffix(f"-{half}") in packed for half in _HALVES)


def _rank(name: str) -> int:
    return _PREFERRED.index(name) if name in _PREFERRED else len(_PREFERRED)
