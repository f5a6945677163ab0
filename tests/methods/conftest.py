"""The tiny data set of the final trainings."""

from tests.final.conftest import place, shared, threads

__all__ = ["place", "shared", "threads"]
