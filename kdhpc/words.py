"""Numbers of things in sentences for people."""


def counted(number: int, thing: str) -> str:
    """A number and what it counts, as ``1 trial`` or ``1,200 classes``.

    Args:
        number: How many.
        thing: A single one of them; the plural is formed by the rule for regular nouns.
    """
    return f"{number:,} {thing if number == 1 else _plural(thing)}"


def _plural(thing: str) -> str:
    if thing.endswith(("s", "x", "ch", "sh")):
        return f"{thing}es"
    if thing.endswith("y") and thing[-2:-1] not in "aeiou":
        return f"{thing[:-1]}ies"
    return f"{thing}s"
