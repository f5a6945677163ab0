"""Pickles are read and never run; what they say of arrays is checked against the bytes that they hold."""

import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest

from kdhpc.data.readers.cifar import CIFAR10
from kdhpc.data.readers.pickled import read_pickle
from kdhpc.errors import DataError
from tests.data.trees import noise, silent, write_cifar10


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_read_pickle_gives_what_the_unpickler_gives(protocol: int) -> None:
    content = {
        b"labels": [0, 1, 255, 70_000, -3, 1 << 40],
        b"data": noise(1, 4, 3072),
        "names": ["a", b"b\xe9", "\u00e9"],
        b"none": (None, True, False, 1.5, ()),
        b"wide": np.arange(5, dtype=">i8"),
        b"five": [[1, 2, 3, 4, 5], (1, 2, 3, 4, 5)],
    }

    read = read_pickle(pickle.dumps(content, protocol=protocol))

    assert isinstance(read, dict)
    assert list(read) == list(content)
    for name, value in content.items():
        same = read[name] == value
        assert same.all() if isinstance(value, np.ndarray) else same


def test_read_pickle_gives_strings_of_python_2_as_bytes() -> None:
    assert read_pickle(b"\x80\x02}q\x00U\x04dataq\x01U\x02\xe9\xffq\x02s.") == {b"data": b"\xe9\xff"}


def test_read_pickle_follows_an_array_as_python_2_wrote_it() -> None:
    """By cPickle in protocol 2, as CIFAR's files are: short strings, longs, False as an old integer."""
    content = (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(K\x06K\x09e"
        b"U\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09"
        b"(K\x01\x8a\x01\x02K\x03\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbI00\nT\x06\x00\x00\x00\x01\x02\x03\xff\x00\x80tb"
        b"U\x09filenamesq\x0c]q\x0d(U\x05a.pngq\x0eU\x05b.pngq\x0feu."
    )
    expected = pickle.loads(content, encoding="bytes")

    read = read_pickle(content)

    assert isinstance(read, dict)
    assert read[b"data"].tolist() == expected[b"data"].tolist() == [[1, 2, 3], [255, 0, 128]]
    assert read[b"data"].dtype == np.uint8
    assert {key: value for key, value in read.items() if key != b"data"} == {
        b"batch_label": b"training batch 1 of 5",
        b"labels": [6, 9],
        b"filenames": [b"a.png", b"b.png"],
    }


class _Calls:
    def __init__(self, *call: object) -> None:
        self._call = call

    def __reduce__(self) -> tuple[object, ...]:
        return self._call


def _array(shape: object, kind: str, content: object, *, fortran: bool = False) -> bytes:
    """A pickle of an array whose shape, type and bytes are said one by one."""
    made = np.zeros(1, dtype=np.uint8).__reduce__()
    dtype = np.dtype(kind) if kind != "O" else np.dtype(object)
    return pickle.dumps(_Calls(made[0], made[1], (1, shape, dtype, fortran, content)), protocol=2)


@pytest.mark.parametrize(
    ("forged", "told"),
    [
        (_array((1,), "O", [1 << 62]), "not made of bytes"),
        (_array((1,), "O", b"\x41" * 8), "allowed are whole numbers"),
        (_array((1 << 60,), "u1", b"abc"), "3 bytes for it"),
        (_array((-1,), "u1", b"abc"), "stored in a way"),
        (_array((2, 3), "u1", b"abcd"), "4 bytes for it"),
        (_array((1,), "V8", b"\x41" * 8), "allowed are whole numbers"),
        (_array((1,), "f8", bytes(8)), "allowed are whole numbers"),
        (_array((4,), "u1", b"abcd", fortran=True), "stored in a way"),
        (pickle.dumps(_Calls(eval, ("1",)), protocol=2), "it asks for __builtin__.eval"),
        (pickle.dumps(_Calls(np.ndarray, ((1 << 40,),)), protocol=2), "it calls numpy.ndarray as no data set does"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"it asks for os\.system"),
        (b"\x80\x02r\xff\xff\xff\xff.", "it is damaged"),
        (b"\x80\x02N", "pickle exhausted|cut short"),
        (b"cos\nsystem\n(S'echo'\ntR.", r"it asks for os\.system"),
        (b"Pmine\n.", "it has PERSID"),
        (b"\x80\x02\x82\x01.", "it has EXT1"),
        (b"junk", "not enough data"),
        (b"", "pickle exhausted"),
    ],
)
def test_read_pickle_refuses_what_no_data_set_holds(forged: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_pickle(forged)


def _doubled(levels: int) -> bytes:
    """Opcodes that leave a pair of pairs of pairs ... on the stack: a few bytes, which written out fill any memory."""
    memo = [number.to_bytes(4, "little") for number in range(1000, 1001 + levels)]
    pairs = (b"j" + memo[i] + b"j" + memo[i] + b"\x86r" + memo[i + 1] + b"0" for i in range(levels))
    return b"K\x01r" + memo[0] + b"0" + b"".join(pairs) + b"j" + memo[levels]


def test_read_pickle_writes_nothing_out_that_was_folded_up() -> None:
    folded = _doubled(60)
    for forged, told in (
        (b"\x80\x04" + folded + b"\x8c\x01a\x93.", "by a tuple and a str"),
        (_array((7,), "u1", b"a").replace(b"K\x07\x85", folded + b"\x85"), "stored in a way that no data set needs"),
    ):
        with pytest.raises(ValueError, match=told) as caught:
            read_pickle(forged)
        assert len(str(caught.value)) < 200


def test_read_pickle_makes_no_more_bytes_than_it_has() -> None:
    """One text, taken from the memo and made into bytes again and again."""
    text = b"c_codecs\nencode\nq\x01X" + (1000).to_bytes(4, "little") + b"a" * 1000 + b"q\x00X\x06\0\0\0latin1q\x02"
    with pytest.raises(ValueError, match="it makes more bytes than it has"):
        read_pickle(b"\x80\x02" + text + b"h\x01h\x00h\x02\x86R" * 100 + b".")


def test_read_pickle_damaged_in_any_place_is_an_error_of_one_kind() -> None:
    whole = pickle.dumps({b"data": noise(1, 2, 30), b"labels": [1, 2]}, protocol=2)
    positions = [position for _, _, position in pickletools.genops(whole)]
    for position in positions:
        for byte in (0, 40, 82, 98, 99, 128, 255):
            forged = bytearray(whole)
            forged[position] = byte
            try:
                read_pickle(bytes(forged))
            except ValueError:
                continue


def test_cifar10_of_a_forged_type_is_refused_by_name(tmp_path: Path) -> None:
    """NumPy's own classes would take the bytes for addresses."""
    write_cifar10(tmp_path / "c")
    forged = pickle.loads((tmp_path / "c" / "data_batch_3").read_bytes())
    made = np.zeros(1, dtype=np.uint8).__reduce__()
    forged[b"data"] = _Calls(made[0], made[1], (1, (2, 3072), np.dtype(object), False, b"\x41" * 8 * 2 * 3072))
    (tmp_path / "c" / "data_batch_3").write_bytes(pickle.dumps(forged, protocol=2))

    with pytest.raises(DataError, match=r"data_batch_3 is not an official CIFAR file: it holds an array of .*'O8'"):
        CIFAR10.read(tmp_path, tmp_path / "scratch", silent())
