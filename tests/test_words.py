"""Numbers of things in sentences."""

import pytest

from kdhpc.words import counted


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (1, ("trial",), "1 trial"),
        (0, ("trial",), "0 trials"),
        (1200, ("epoch",), "1,200 epochs"),
        (1, ("class", "classes"), "1 class"),
        (2, ("class", "classes"), "2 classes"),
    ],
)
def test_counted_says_one_of_a_thing_as_one(number: int, words: tuple[str, ...], said: str) -> None:
    assert counted(number, *words) == said
