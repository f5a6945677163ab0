"""Lists of whole numbers as people write them: of seeds, of classes."""

import re


def parse_numbers(text: str, *, noun: str, most: int = 1000) -> tuple[int, ...]:
    """``3``, ``0..4`` (both ends included) or ``0,2,5``, in the order in which they are given.

    Args:
        text: What was given.
        noun: What one of the numbers is called in messages.
        most: How many there may be.

    Raises:
        ValueError: it is none of these, has a number twice, or too many; the message says so in words that follow
            "is not allowed".
    """
    if found := re.fullmatch(r"(\d+)\.\.(\d+)", text):
        first, last = int(found[1]), int(found[2])
        if last < first:
            raise ValueError(f"the smaller {noun} comes first, as {last}..{first}")
        # No more are counted out than may be given: 0..9999999999 has no end that anybody waits for.
        numbers = tuple(range(first, min(last, first + most) + 1))
    elif re.fullmatch(r"\d+(,\d+)*", text):
        numbers = tuple(int(number) for number in text.split(","))
    else:
        raise ValueError("give a number, a range such as 0..4, or a list such as 0,2,5")
    if len(numbers) > most:
        raise ValueError(f"at most {most:,} at once")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"a {noun} is in it twice")
    return numbers
