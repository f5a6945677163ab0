"""Numbers of trials, and how people are told of them.

A trial of the budget has its slot's number, from 0, which is Optuna's as well. Given trials, which are outside the
budget, are counted from 1; where one number must name any trial of a study (folders, checkpoints, leases), theirs are
the negative ones: -1 is given trial 1.
"""

import re


def given_number(slot: int) -> int:
    """The number of the given trial in a slot (from 0) of the companion study."""
    return -1 - slot


def trial_words(number: int) -> str:
    """``trial 3``, ``given trial 1``."""
    return f"given trial {-number}" if number < 0 else f"trial {number}"


def trial_label(number: int) -> str:
    """``3``, ``given 1``: where it is clear that trials are meant."""
    return f"given {-number}" if number < 0 else str(number)


def trial_number(label: str) -> int | None:
    """The number that a label means, as people write it: ``3``, ``given 1``, ``given1``, ``-1``; None: none."""
    found = re.fullmatch(r"(?:trial )?(?:(?P<given>given)(?: trial)?[ -]?|(?P<minus>-))?(?P<digits>\d{1,9})", label)
    if found is None or ((found["given"] or found["minus"]) and int(found["digits"]) == 0):
        return None
    return -int(found["digits"]) if found["given"] or found["minus"] else int(found["digits"])
