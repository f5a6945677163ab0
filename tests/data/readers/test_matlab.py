"""MATLAB files: what SciPy writes is read as SciPy reads it, and damaged ones end in one line."""

import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from kdhpc.data.readers.matlab import MatFile
from kdhpc.errors import DataError

_HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\x01IM"


def _records(num: int) -> np.ndarray:
    records = np.zeros((1, num), dtype=[("fname", object), ("class", object), ("test", object)])
    for index in range(num):
        records[0, index] = (f"{index:05d}.jpg", index % 196 + 1, bool(index % 2))
    return records


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_lists_are_those_that_were_written(tmp_path: Path, compressed: bool) -> None:
    names = ["a/1.jpg", "b/longer name.jpg", "\u00e9", "\u65e5\u672c"]
    written = {
        "names": np.array([[name] for name in names], dtype=object),
        "bytes": np.array([[1], [200]], dtype=np.uint8),
        "doubles": np.array([1.0, 2.0, 70_000.0]),
        "wide": np.array([1, 1 << 40, -5]),
        "truth": np.array([True, False]),
        "records": _records(300),
        "text": "one",
        "unread": 1j * np.ones(3),
        "sparse": np.ones((2, 2)),
    }
    savemat(tmp_path / "a.mat", written, do_compression=compressed)

    read = MatFile.load(tmp_path / "a.mat")

    assert read.strings("names") == names
    assert read.strings("text") == ["one"]
    for name in ("bytes", "doubles", "wide", "truth"):
        assert read.integers(name).tolist() == loadmat(tmp_path / "a.mat")[name].reshape(-1).tolist()
    assert read.strings("records", "fname") == [f"{index:05d}.jpg" for index in range(300)]
    assert read.integers("records", "class").tolist() == [index % 196 + 1 for index in range(300)]
    assert read.integers("records", "test").tolist() == [index % 2 for index in range(300)]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.array([1.5]), "has 1.5 in 'x' where a int should be"),
        (np.array([1e300]), "where a int should be"),
        (np.array([[1, 2], [3, 4]]), r"has 'x' of shape \(2, 2\) where a list should be"),
        (np.array([["a"], [None]], dtype=object), "where a int should be"),
        (1j * np.ones(2), "which is not read"),
    ],
)
def test_matlab_other_content_is_refused_by_name(tmp_path: Path, value: np.ndarray, told: str) -> None:
    if value.dtype == object:
        value[1, 0] = np.ones((2, 2))
    savemat(tmp_path / "a.mat", {"x": value})
    with pytest.raises(DataError, match=rf"a\.mat .*{told}"):
        MatFile.load(tmp_path / "a.mat").integers("x")


def _element(kind: int, content: bytes) -> bytes:
    return struct.pack("<2I", kind, len(content)) + content + bytes(-len(content) % 8)


def _array(kind: int, shape: tuple[int, ...], *rest: bytes) -> bytes:
    flags, sizes = _element(6, struct.pack("<2I", kind, 0)), _element(5, struct.pack(f"<{len(shape)}i", *shape))
    return _element(14, b"".join((flags, sizes, _element(1, b"x"), *rest)))


def _deep(depth: int) -> bytes:
    made = _array(6, (1, 1), _element(9, struct.pack("<d", 1.0)))
    for _ in range(depth):
        made = _array(1, (1, 1), made)
    return made


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (_array(6, (1 << 20, 1 << 20)), "an array of dimensions"),
        (_array(6, (-1, 1)), "an array of dimensions"),
        (_array(6, (1, 1 << 27), _element(9, bytes(8))), "8 bytes for 134,217,728 numbers"),
        (_array(6, (1, 1), _element(99, bytes(8))), "numbers of type 99"),
        (_array(1, (1, 1000)), "0 elements where 1,000 should be"),
        (struct.pack("<2I", 14, 0xFFFFFFF0), "it is cut short"),
        (struct.pack("<2I", 15, 4) + b"junk", "damaged"),
        (_element(15, zlib.compress(bytes(1 << 29), 9)), "it unpacks to more than 268,435,456 bytes"),
        (_deep(5000), "where a int should be"),
        (_array(2, (1, 1), _element(5, bytes(4)), _element(1, b"")), "damaged names|no variable|should be"),
    ],
)
def test_matlab_forged_lengths_and_types_are_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "a.mat").write_bytes(_HEADER + content)
    with pytest.raises(DataError, match=told):
        MatFile.load(tmp_path / "a.mat").integers("x", "f" if "names" in told else None)


def test_matlab_numbers_are_read_in_the_type_that_matlab_stored_them_in(tmp_path: Path) -> None:
    """MATLAB stores doubles that are small whole numbers as bytes, beside objects that only it understands."""
    flags = _element(6, struct.pack("<2I", 17, 0))
    opaque = _element(14, flags + _element(1, b"table_of") + _element(1, b"MCOS") + _element(1, b"table"))
    empty_name = _element(14, _element(6, struct.pack("<2I", 9, 0)) + _element(5, bytes(8)) + _element(1, b""))
    numbers = _array(6, (3, 1), struct.pack("<HH", 2, 3) + bytes((7, 8, 9, 0)))
    packed = zlib.compress(numbers)
    content = opaque + struct.pack("<2I", 15, len(packed)) + packed + empty_name
    (tmp_path / "a.mat").write_bytes(_HEADER + content)

    assert MatFile.load(tmp_path / "a.mat").integers("x").tolist() == [7, 8, 9]


def test_matlab_of_a_big_endian_machine_is_read(tmp_path: Path) -> None:
    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">2I", kind, len(content)) + content + bytes(-len(content) % 8)

    parts = (element(6, struct.pack(">2I", 12, 0)), element(5, struct.pack(">2i", 1, 2)), element(1, b"x"))
    numbers = element(14, b"".join((*parts, element(5, struct.pack(">2i", 1, 70_000)))))
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\0MI" + numbers)

    assert MatFile.load(tmp_path / "a.mat").integers("x").tolist() == [1, 70_000]
    assert loadmat(tmp_path / "a.mat")["x"].tolist() == [[1, 70_000]]


def test_matlab_7_3_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(512))
    with pytest.raises(DataError, match=r"it is of MATLAB 7\.3: save it with -v7"):
        MatFile.load(tmp_path / "a.mat")


def test_matlab_damaged_in_any_place_is_read_or_an_error(tmp_path: Path) -> None:
    """SciPy's reader, in C, ends the process for some of them."""
    savemat(tmp_path / "a.mat", {"names": np.array([[f"n{index}.jpg"] for index in range(30)], dtype=object)})
    whole, random_source, errors = (tmp_path / "a.mat").read_bytes(), random.Random(0), list[str]()
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(random_source.choice((1, 2, 8))):
            content[random_source.randrange(128, len(content))] = random_source.randrange(256)
        (tmp_path / "b.mat").write_bytes(
            content[: random_source.choice((len(content), random_source.randrange(len(content))))]
        )
        try:
            MatFile.load(tmp_path / "b.mat").strings("names")
        except DataError as exc:
            errors.append(str(exc))
    assert len(errors) > 100
    assert all(error.isprintable() and len(error) < 600 for error in errors)
