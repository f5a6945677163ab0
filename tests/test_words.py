"""Numbers of things in sentences."""

import pytest

from kdhpc.words import counted


@pytest.mark.parametrize(
    ("number", "thing", "said"),
    [
        (1, "trial", "1 trial"),
        (0, "trial", "0 trials"),
        (1200, "class", "1,200 classes"),
        (2, "search", "2 searches"),
        (2, "study", "2 studies"),
        (2, "key", "2 keys"),
        (1, "box", "1 box"),
        (3, "box", "3 boxes"),
    ],
)
def test_counted_forms_the_plural_of_all_numbers_but_one(number: int, thing: str, said: str) -> None:
    assert counted(number, thing) == said
