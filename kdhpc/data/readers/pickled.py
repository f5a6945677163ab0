"""Reads plain data from a pickle without unpickling it: nothing that the file names is looked up or called.

Python's unpickler looks up and calls whatever a file names, and NumPy's classes trust the shapes and types that they
are given. This module interprets only those opcodes that CIFAR's files consist of: containers, numbers, texts, bytes,
and arrays of integers in the one way in which NumPy pickled them. Everything else is refused.

Source: https://docs.python.org/3/library/pickletools.html
"""

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kdhpc.data.names import shown

_MARK = object()
_MOST_STEPS = 1 << 24
"""Largest number of opcodes in a file; CIFAR-100's largest file has 500,000."""
_RECONSTRUCT = frozenset(("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"))
"""NumPy's function that makes an array, by both names that its module has had."""
_NDARRAY, _DTYPE, _ENCODE = "numpy ndarray", "numpy dtype", "_codecs encode"
_GLOBALS = frozenset((*_RECONSTRUCT, _NDARRAY, _DTYPE, _ENCODE))
_LONGEST_SIDE = 1 << 62
_WHOLE_NUMBERS = frozenset(("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"))
_BYTE_ORDERS = frozenset(("<", ">", "|", "="))


@dataclass(frozen=True)
class _Global:
    """The name of something that is never looked up."""

    name: str


@dataclass
class _Type:
    """An array's dtype: kind and size such as ``u1``, and byte order."""

    kind: str
    order: str = "|"


@dataclass
class _Array:
    """An array; its values are None until the opcode that sets them."""

    values: NDArray[np.integer] | None = field(default=None)


def read_pickle(content: bytes) -> object:
    """The data in a pickle.

    Args:
        content: The bytes of the file.

    Returns:
        Dictionaries, lists, tuples, numbers, texts, bytes, None, and read-only arrays of integers. Strings that
        Python 2 wrote are bytes.

    Raises:
        ValueError: it is damaged, or holds something else.
    """
    reader = _Reader(limit=4 * len(content))
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if number >= _MOST_STEPS:
                raise ValueError(f"it has more than {_MOST_STEPS:,} opcodes")
            if opcode.name == "STOP":
                return _finished(reader.pop())
            reader.step(opcode.name, argument)
    except (LookupError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
        raise ValueError(f"it is damaged: {exc}") from exc
    raise ValueError("it is cut short")


def _finished(value: object) -> object:
    """The value, or the values of a dictionary, with NumPy arrays in place of `_Array` objects."""
    if isinstance(value, dict):
        return {key: _finished_item(item) for key, item in value.items()}
    return _finished_item(value)


def _finished_item(value: object) -> object:
    if isinstance(value, _Array):
        if value.values is None:
            raise ValueError("it holds an array without content")
        return value.values
    return value


class _Reader:
    """The stack machine that executes the opcodes of a pickle, with few of its instructions.

    Args:
        limit: Largest number of bytes that all calls and arrays of the file may make together.
    """

    def __init__(self, *, limit: int) -> None:
        self._left = limit
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def pop(self) -> object:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("it is damaged: a mark where a value should be")
        return value

    def step(self, name: str, argument: object) -> None:
        """Follow one opcode."""
        if name in _VALUES:
            self._stack.append(_VALUES[name](argument))
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"it has {name}, which no data set needs")

    def _popped_to_mark(self) -> list[object]:
        items: list[object] = []
        while (value := self._stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def mark(self, _: object) -> None:
        self._stack.append(_MARK)

    def put(self, index: object) -> None:
        self._memo[int(str(index))] = self._stack[-1]

    def memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, index: object) -> None:
        self._stack.append(self._memo[int(str(index))])

    def discard(self, _: object) -> None:
        self._stack.pop()

    def tuple_of(self, num: int) -> None:
        items = [self.pop() for _ in range(num)]
        self._stack.append(tuple(items[::-1]))

    def tuple_to_mark(self, _: object) -> None:
        self._stack.append(tuple(self._popped_to_mark()))

    def list_to_mark(self, _: object) -> None:
        self._stack.append(self._popped_to_mark())

    def dict_to_mark(self, _: object) -> None:
        items = self._popped_to_mark()
        self._stack.append(_filled({}, items))

    def append(self, _: object) -> None:
        self._extend([self.pop()])

    def appends(self, _: object) -> None:
        self._extend(self._popped_to_mark())

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise ValueError(f"it appends to a {type(target).__name__}")
        target.extend(items)

    def set_item(self, _: object) -> None:
        value, key = self.pop(), self.pop()
        self._fill([key, value])

    def set_items(self, _: object) -> None:
        self._fill(self._popped_to_mark())

    def _fill(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise ValueError(f"it sets items of a {type(target).__name__}")
        _filled(target, items)

    def name(self, argument: object) -> None:
        self._stack.append(_known(str(argument)))

    def name_from_stack(self, _: object) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError(f"it asks for something by a {type(module).__name__} and a {type(name).__name__}")
        self._stack.append(_known(f"{module} {name}"))

    def call(self, _: object) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise ValueError("it calls something that is no function of a data set")
        self._stack.append(_made(function.name, arguments))
        self._spend(self._stack[-1])

    def build(self, _: object) -> None:
        state, target = self.pop(), self._stack[-1]
        if isinstance(target, _Type) and isinstance(state, tuple):
            _set_order(target, state)
        elif isinstance(target, _Array) and isinstance(state, tuple):
            self._spend(state[-1])
            target.values = _array(state)
        else:
            raise ValueError(f"it sets the state of a {type(target).__name__}")

    def _spend(self, made: object) -> None:
        self._left -= len(made) if isinstance(made, (bytes, str)) else 0
        if self._left < 0:
            raise ValueError("it makes more bytes than it has")


_VALUES: dict[str, Callable[[object], object]] = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), lambda value: value),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), lambda value: value),
    **dict.fromkeys(("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), lambda value: value),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"), lambda value: value),
    # Python 2's strings, which pickletools gives as Latin-1 text.
    **dict.fromkeys(("STRING", "SHORT_BINSTRING", "BINSTRING"), lambda value: str(value).encode("latin-1")),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
}
_STEPS: dict[str, Callable[[_Reader, object], None]] = {
    "MARK": _Reader.mark,
    "POP": _Reader.discard,
    "MEMOIZE": _Reader.memoize,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Reader.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Reader.get),
    "TUPLE": _Reader.tuple_to_mark,
    "TUPLE1": lambda reader, _: reader.tuple_of(1),
    "TUPLE2": lambda reader, _: reader.tuple_of(2),
    "TUPLE3": lambda reader, _: reader.tuple_of(3),
    "LIST": _Reader.list_to_mark,
    "DICT": _Reader.dict_to_mark,
    "APPEND": _Reader.append,
    "APPENDS": _Reader.appends,
    "SETITEM": _Reader.set_item,
    "SETITEMS": _Reader.set_items,
    "GLOBAL": _Reader.name,
    "STACK_GLOBAL": _Reader.name_from_stack,
    "REDUCE": _Reader.call,
    "BUILD": _Reader.build,
}


def _known(name: str) -> _Global:
    if name not in _GLOBALS:
        raise ValueError(f"it asks for {shown(name.replace(' ', '.'))}, which no data set needs")
    return _Global(name)


def _filled(target: dict[object, object], items: list[object]) -> dict[object, object]:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, (str, bytes)):
            raise ValueError(f"it names an entry by a {type(key).__name__}")
        target[key] = value
    return target


def _made(function: str, arguments: tuple[object, ...]) -> object:
    """The result of a call in the file, if it is one of those that NumPy and Python write."""
    match arguments:
        case (_Global(name=name), (0,), b"b" | "b") if function in _RECONSTRUCT and name == _NDARRAY:
            return _Array()
        case (str() | bytes() as kind, *_) if function == _DTYPE:
            return _Type(kind.decode("latin-1") if isinstance(kind, bytes) else kind)
        # How Python 3 writes bytes in the old protocols.
        case (str() as text, "latin1") if function == _ENCODE:
            return text.encode("latin-1")
    raise ValueError(f"it calls {function.replace(' ', '.')} as no data set does")


def _set_order(target: _Type, state: tuple[object, ...]) -> None:
    order = state[1]
    if not isinstance(order, (str, bytes)):
        raise ValueError(f"it gives an order of bytes as a {type(order).__name__}")
    target.order = order.decode("latin-1") if isinstance(order, bytes) else order


def _array(state: tuple[object, ...]) -> NDArray[np.integer]:
    """Make an array from its pickled state. Its shape, dtype and bytes are checked against each other."""
    match state:
        case (int(), tuple() as shape, _Type() as dtype, is_fortran, bytes() as content):
            pass
        case (int(), tuple() as shape, _Type() as dtype, is_fortran, str() as text):
            # Bytes as text: how Python 3 writes a string that it has read from a pickle of Python 2.
            content = text.encode("latin-1")
        case _:
            raise ValueError("it holds an array that is not made of bytes")
    sizes = tuple(size for size in shape if isinstance(size, int) and size >= 0)
    if dtype.kind not in _WHOLE_NUMBERS or dtype.order not in _BYTE_ORDERS:
        raise ValueError(f"it holds an array of {shown(dtype.order)}{shown(dtype.kind)!r}: allowed are whole numbers")
    # The message says only how long a shape is: it may hold anything, and be longer than the file when written out.
    if len(sizes) != len(shape) or not 1 <= len(sizes) <= 4 or max(sizes) > _LONGEST_SIDE or is_fortran:
        raise ValueError(f"it holds an array of {len(shape)} dimensions, stored in a way that no data set needs")
    found = np.frombuffer(content, dtype=np.dtype(dtype.order.replace("|", "=") + dtype.kind))
    if math.prod(sizes) != len(found):
        raise ValueError(f"it holds an array of shape {sizes}, but {len(content):,} bytes for it")
    return found.reshape(sizes)
