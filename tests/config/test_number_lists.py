"""Lists of numbers as people write them."""

import pytest

from kdhpc.config.number_lists import parse_numbers


@pytest.mark.parametrize(
    ("text", "numbers"), [("3", (3,)), ("0..4", (0, 1, 2, 3, 4)), ("7..7", (7,)), ("5,0,2", (5, 0, 2)), ("007", (7,))]
)
def test_numbers_are_read_in_their_order(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_numbers(text, noun="seed") == numbers


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "give a number, a range such as 0..4"),
        ("-1", "give a number"),
        ("1,", "give a number"),
        ("0...4", "give a number"),
        ("4..0", "the smaller seed comes first, as 0..4"),
        ("1,2,1", "a seed is in it twice"),
        ("0..10", "at most 10 at once"),
        ("0..99999999999999999999", "at most 10 at once"),
    ],
)
def test_what_is_no_list_of_numbers_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_numbers(text, noun="seed", most=10)
