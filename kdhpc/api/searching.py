"""Searches for Python users."""


class Study:
    """Placeholder."""


def search(name: str) -> Study:
    """Placeholder."""
    raise NotImplementedError(name)
