"""Some classes of a prepared data set, as a data set of its own."""

import re
from pathlib import Path

import numpy as np
import pytest

from kdhpc.data.packed import PackedDataset
from kdhpc.data.readers.packed import PackedReader
from kdhpc.data.readers.registry import reader_of
from kdhpc.errors import DataError, UsageError
from tests.data.made import pack
from tests.data.trees import write_folder


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    source = write_folder(tmp_path / "source", classes=("cat", "cow", "dog"))
    pack(source, tmp_path / "pets")
    return tmp_path / "pets"


def test_chosen_classes_have_their_images_and_new_numbers(pets: Path, tmp_path: Path) -> None:
    whole = PackedDataset.open(pets)

    pack(pets, tmp_path / "some", reader=PackedReader(classes="2,1"), size=None)

    some = PackedDataset.open(tmp_path / "some")
    assert some.classes == ("cow", "dog")
    rows = np.flatnonzero(whole.train.labels > 0)
    assert np.array_equal(some.train.images[:], whole.train.images[rows])
    assert some.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert some.test.labels.tolist() == [0, 0, 1, 1]


def test_halves_have_no_class_in_common(tmp_path: Path) -> None:
    pack(write_folder(tmp_path / "source", classes=tuple("abcde")), tmp_path / "letters")

    assert PackedReader(classes="first").class_names(tmp_path / "letters") == ("a", "b")
    assert PackedReader(classes="second").class_names(tmp_path / "letters") == ("c", "d", "e")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ("0", "is not allowed: two classes or more"),
        ("0..99", "there is no class 99, there are 0 to"),
        ("cats", "is not allowed: give a number, a range such as 0..4, or a list such as 0,2,5; or first or second"),
        ("0,0", "a class is in it twice"),
        ("1..0", "the smaller class comes first, as 0..1"),
        ("..", "or first or second, for a half of the 3 classes"),
    ],
)
def test_classes_that_are_none_are_told(pets: Path, classes: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        PackedReader(classes=classes).class_names(pets)


def test_a_name_that_has_other_classes_is_kept(pets: Path, tmp_path: Path) -> None:
    pack(pets, tmp_path / "some", reader=PackedReader(classes="0,1"), size=None)
    assert not pack(pets, tmp_path / "some", reader=PackedReader(classes="0..1"), size=None).made
    with pytest.raises(DataError, match="is prepared already, with other classes than these"):
        pack(pets, tmp_path / "some", reader=PackedReader(classes="1,2"), size=None)


def test_classes_go_with_the_reader_packed_alone() -> None:
    with pytest.raises(UsageError, match="reader packed needs --classes"):
        reader_of("packed")
    with pytest.raises(UsageError, match="reader cifar10 takes no --classes"):
        reader_of("cifar10", classes="0..4")
