"""Hash-based random numbers, which are the same on every machine.

A slot's graph must not depend on the machine, on the versions of Python and NumPy, or on what was drawn before it. So
there is no generator with a state. Each draw has a key, which says what it is for, and hashes it with SHAKE-256. All
arithmetic is on integers.
"""

import hashlib
from collections.abc import Sequence

_EXCESS_BYTES = 16


def uniform(bound: int, key: str) -> int:
    """A uniform random integer from 0 to ``bound`` - 1, a pure function of its arguments.

    All values are equally likely, up to one part in 2^128.

    Args:
        bound: 1 or more.
        key: What the integer is drawn for. Other keys give independent integers.
    """
    digest = hashlib.shake_256(key.encode()).digest(bound.bit_length() // 8 + 1 + _EXCESS_BYTES)
    return int.from_bytes(digest, "big") % bound


def weighted_order(weights: Sequence[int], key: str) -> tuple[int, ...]:
    """A weighted random permutation: indices drawn one after the other, without replacement.

    Args:
        weights: Positive integers. A draw takes index i with probability weights[i] / (sum of the weights left).
        key: What the order is drawn for.

    Returns:
        A permutation of range(len(weights)).
    """
    size = 1 << (len(weights) - 1).bit_length()
    # A binary tree of sums: tree[1] is the total, tree[size + i] the weight of i, 0 once it is drawn.
    tree = [0] * size + list(weights) + [0] * (size - len(weights))
    for node in range(size - 1, 0, -1):
        tree[node] = tree[2 * node] + tree[2 * node + 1]
    order = []
    for place in range(len(weights)):
        rest = uniform(tree[1], f"{key} place {place}")
        node = 1
        while node < size:
            node *= 2
            if rest >= tree[node]:
                rest -= tree[node]
                node += 1
        order.append(node - size)
        weight = tree[node]
        while node:
            tree[node] -= weight
            node //= 2
    return tuple(order)
