"""Other users of the machine, as root can be in CI."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """What follows is done by a user to whom permissions mean something."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)
