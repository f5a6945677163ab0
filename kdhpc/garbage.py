"""When a process of the command looks for garbage: seldom while it imports, and not once more as it ends.

torch and the rest are some 370,000 objects, and none is garbage. Python would look through them again and again while
they are made, and three times as the process ends (`tools/bench start`).
"""

import atexit
import gc

_SELDOM = (50_000, 20, 100)
"""Thresholds of `gc`: new objects before the youngest generation is looked through, and so on."""
_usual: tuple[int, int, int] | None = None


def collect_seldom() -> None:
    """For a command, as it starts: let imports and the end be fast."""
    global _usual
    if _usual is None:
        _usual = gc.get_threshold()
        atexit.register(gc.freeze)
    gc.set_threshold(*_SELDOM)


def collect_as_usual() -> None:
    """Imports are over: collect as often as Python does, but leave out what is there already.

    Not for a process that somebody else's program runs in: garbage that is there already stays.
    """
    gc.freeze()
    if _usual is not None:
        gc.set_threshold(*_usual)
