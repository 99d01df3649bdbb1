"""Which far blocks a block row sees, as arithmetic: the same for integers, numpy arrays and tensors, also while traced.

Pseudo-random numbers come from a hash of what they belong to, never from a stream: a row's links do not depend on the
length of the text, on other rows, or on the process. All arithmetic is modulo 2^31, so that 32-bit integers, which wrap
around, give the same numbers as 64-bit ones.

Candidates of a row are the blocks between the globals and its window, counted from 0; both functions expect at least as
many candidates as links and return nonsense otherwise.
"""

from typing import Any

_BITS = 0x7FFFFFFF
_EPOCHS = 24


def fold(state: Any, value: Any) -> Any:
    """Return the hash, 31 bits, of a state and one more value; multiply-and-shift rounds."""
    x = (((state * 31 + 0x1E3779B9) & _BITS) + value) & _BITS
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _BITS
    x = ((x ^ (x >> 15)) * 0x735A2D97) & _BITS
    return x ^ (x >> 15)


def fresh_links(state: Any, candidates: Any, count: int) -> list[Any]:
    """Draw `count` distinct candidates, every subset equally likely.

    Args:
        state: hash of the row and all that it belongs to.
        candidates: how many there are.
        count: how many to draw.

    Source: Floyd's sampling without replacement, as in Bentley, "Programming Pearls: a sample of brilliance",
    Communications of the ACM 30(9), 1987.
    """
    links: list[Any] = []
    candidates = _at_least(candidates, count)
    for i in range(count):
        last = candidates - count + i
        link = fold(state, i) % (last + 1)
        taken: Any = False
        for other in links:
            taken = taken | (link == other)
        links.append(link + taken * (last - link))
    return links


def column_links(state: Any, candidates: Any, count: int) -> list[Any]:
    """Return where `count` columns of blocks stand when there are `candidates`: each moves forward now and then.

    Column i has the candidates i, i + count, i + 2 count, ... to itself and stands on one of them. With probability
    1/2 it moves each time their number doubles, to a random one of the newer half, in the moment when that becomes a
    candidate; otherwise it stays. So it never moves to where it could not have been kept, and it needs no end of the
    text to be known. When it has 2^n candidates it stands on each with equal probability; in between, on each with 1/2
    to 9/8 of that. From 2^24 candidates on, columns stay for ever.

    Args:
        state: hash of the head and all that it belongs to.
        candidates: how many there are.
        count: columns.
    """
    links: list[Any] = []
    candidates = _at_least(candidates, count)
    for i in range(count):
        own = (candidates - i + count - 1) // count
        place = own * 0
        column = fold(state, i)
        for epoch in range(_EPOCHS):
            drawn = fold(column, epoch)
            target = (1 << epoch) + ((drawn >> 1) & ((1 << epoch) - 1))
            moves = (drawn & 1) * (target < own)
            place = place + moves * (target - place)
        links.append(place * count + i)
    return links


def _at_least(x: Any, low: int) -> Any:
    return x + (x < low) * (low - x)
