"""The catalogue of designs and gates: what each is called, how it is drawn, and where its code is. Free of torch.

kdhpc's own stand here in the same form as those of a plug-in: `add_design` and `add_gate` are the only way in, and an
entry without a weight, a name or a look cannot be made.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from kdhpc.errors import GraphError
from kdhpc.graph.spec import Design, Gate

Output: TypeAlias = Literal["probability", "attention"]
"""What a node puts out, and what a loss compares: the logits that it votes with, or its attention map."""
Line: TypeAlias = Literal["solid", "dashed", "dotted", "dashdot"]
"""How the arrow of an edge is drawn."""
Code: TypeAlias = Callable[..., object] | str
"""A function, or where it is: ``module:name``, imported when a training begins."""

_NAME = re.compile(r"[a-z][A-Za-z0-9_.+-]{0,30}")
_COLOUR = re.compile(r"#[0-9a-f]{6}")
CLOSER, APART = "brings closer", "drives apart"
_BLUE, _ORANGE = "#1f5fa8", "#c24f00"


@dataclass(frozen=True, kw_only=True)
class LossEntry:
    """An elementary loss: a number for each sample and each ordered pair of nodes. Designs are sums of these.

    Raises:
        GraphError: a value that is not allowed.
    """

    name: str
    """What messages call it."""
    compares: Output
    """The output of the nodes that the function is given, and that the target learns through."""
    function: Code
    """For ``probability``, ``function(source, target)`` of logits (N, S, C) and (N, T, C); for ``attention``, of maps
    (N, S, H, W) and (N, T, H, W). All are float32 or float64; the source is detached, and without numbers that are not
    finite. It gives the losses (N, S, T), from tensor operations alone, so that no step waits for the host. S and T are
    all nodes: a node is compared with itself, too, and no edge uses that, but its gradient must be finite."""

    def __post_init__(self) -> None:
        _check_name("elementary loss", self.name)
        _check_choice(f"elementary loss {self.name!r}", "compares", self.compares, get_args(Output))
        _check_code(f"elementary loss {self.name!r}", "function", self.function)


@dataclass(frozen=True, kw_only=True)
class DesignEntry:
    """A loss design of distillation edges.

    Raises:
        GraphError: a value that is missing or not allowed.
    """

    name: str
    """As it stands in graphs, in configs and on drawings."""
    losses: tuple[LossEntry, ...]
    """The design's loss is their sum."""
    colour: str
    """Of its arrows: ``#rrggbb``."""
    meaning: str
    """What the legend says about the colour, such as ``brings closer``."""

    def __post_init__(self) -> None:
        _check_name("design", self.name)
        losses: object = self.losses
        if not isinstance(losses, (tuple, list)) or not all(isinstance(loss, LossEntry) for loss in losses):
            losses = ()
        if not losses:
            raise GraphError(
                f"design {self.name!r} has losses={self.losses!r}: give one LossEntry or more, as losses=[LOSS]"
            )
        object.__setattr__(self, "losses", tuple(losses))
        if not isinstance(self.colour, str) or not _COLOUR.fullmatch(self.colour):
            raise GraphError(f"design {self.name!r} has colour={self.colour!r}: give '#rrggbb', in small letters")
        if not isinstance(self.meaning, str) or not self.meaning.strip() or not self.meaning.isprintable():
            raise GraphError(f"design {self.name!r} has meaning={self.meaning!r}: give the words of the legend")


@dataclass(frozen=True, kw_only=True)
class GateEntry:
    """A gate: how an edge's loss is weighted.

    Raises:
        GraphError: a value that is missing or not allowed.
    """

    name: str
    """As it stands in graphs, in configs and on drawings."""
    weight: Code
    """``weight(ramp, right)``: the weight of each sample's loss. ``ramp`` is k / k_end, a scalar tensor from 0 to 1;
    ``right`` is float32 or float64 (N, S), 1 where the source predicts the sample's label, else 0; labels themselves
    are always right. It gives a tensor that can be broadcast to (N, S), from tensor operations alone."""
    line: Line
    """How its arrows are drawn."""

    def __post_init__(self) -> None:
        _check_name("gate", self.name)
        _check_code(f"gate {self.name!r}", "weight", self.weight)
        _check_choice(f"gate {self.name!r}", "line", self.line, get_args(Line))


_DESIGNS: dict[Design, DesignEntry] = {}
_GATES: dict[Gate, GateEntry] = {}


def design_entry(design: Design) -> DesignEntry:
    """All about a design."""
    return _DESIGNS[design]


def gate_entry(gate: Gate) -> GateEntry:
    """All about a gate. ``cutoff`` has none: an edge with it has no loss, and is not drawn."""
    return _GATES[gate]


def outputs_compared(design: Design) -> frozenset[Output]:
    """The outputs that the elementary losses of a design compare."""
    return frozenset(loss.compares for loss in _DESIGNS[design].losses)


def add_design(entry: DesignEntry) -> Design:
    """Add a design.

    Raises:
        GraphError: there is another one of that name.
    """
    if entry.name in set(Design):
        raise GraphError(f"design {entry.name!r} is there already: give yours another name")
    design = Design.add(entry.name)
    _DESIGNS[design] = entry
    design.compares_maps = "attention" in outputs_compared(design)
    return design


def add_gate(entry: GateEntry) -> Gate:
    """Add a gate.

    Raises:
        GraphError: there is another one of that name.
    """
    if entry.name in set(Gate):
        raise GraphError(f"gate {entry.name!r} is there already: give yours another name")
    gate = Gate.add(entry.name)
    _GATES[gate] = entry
    return gate


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise GraphError(
            f"{what} name {name!r} is not allowed: 1 to 31 letters, digits, '_', '.', '+' or '-', a small letter first"
        )


def _check_choice(what: str, key: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise GraphError(f"{what} has {key}={value!r}: allowed are {', '.join(allowed)}")


def _check_code(what: str, key: str, code: object) -> None:
    if not callable(code) and not (isinstance(code, str) and ":" in code):
        raise GraphError(f"{what} has {key}={code!r}: give a function, or 'module:name' of one")


def _loss(name: str, compares: Output) -> LossEntry:
    """One of the paper's. The two that compare the same output share work, so one function gives both."""
    return LossEntry(name=name, compares=compares, function=f"kdhpc.losses.distillation:{compares}_losses")


PROB_CLOSER_LOSS = _loss("prob_closer", "probability")
PROB_APART_LOSS = _loss("prob_apart", "probability")
ATTENTION_CLOSER_LOSS = _loss("attention_closer", "attention")
ATTENTION_APART_LOSS = _loss("attention_apart", "attention")
BUILT_IN_LOSSES = (PROB_CLOSER_LOSS, PROB_APART_LOSS, ATTENTION_CLOSER_LOSS, ATTENTION_APART_LOSS)
"""Source: paper Eq. 4-7."""


def _built_in(design: Design, colour: str, meaning: str, *losses: LossEntry) -> None:
    _DESIGNS[design] = DesignEntry(name=design.value, losses=losses, colour=colour, meaning=meaning)


_built_in(Design.PROB_CLOSER, _BLUE, CLOSER, PROB_CLOSER_LOSS)
_built_in(Design.PROB_APART, _ORANGE, APART, PROB_APART_LOSS)
_built_in(Design.ATTENTION_CLOSER, _BLUE, CLOSER, ATTENTION_CLOSER_LOSS)
_built_in(Design.ATTENTION_APART, _ORANGE, APART, ATTENTION_APART_LOSS)
_built_in(Design.BOTH_CLOSER, _BLUE, CLOSER, PROB_CLOSER_LOSS, ATTENTION_CLOSER_LOSS)
_built_in(Design.BOTH_APART, _ORANGE, APART, PROB_APART_LOSS, ATTENTION_APART_LOSS)
_GATES |= {
    gate: GateEntry(name=gate.value, weight=f"kdhpc.losses.gates:{gate}", line="solid")
    for gate in (Gate.THROUGH, Gate.LINEAR, Gate.CORRECT)
}
assert all(design.compares_maps == ("attention" in outputs_compared(design)) for design in _DESIGNS)
if missing := ({*Design} - _DESIGNS.keys()) | ({*Gate} - _GATES.keys() - {Gate.CUTOFF}):
    raise GraphError(f"no weight, colour or line is in kdhpc/graph/catalogue.py for {', '.join(sorted(missing))}")
