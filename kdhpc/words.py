"""Numbers of things in sentences for people."""


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what it counts, as ``1 trial`` or ``1,200 classes``.

    Args:
        number: How many.
        one: A single one of them.
        many: Several of them; empty: ``one`` with an s.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
