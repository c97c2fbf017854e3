"""Formal languages: lines of one length, drawn from a generator."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PAIRS = ("()", "[]", "{}")
BRACKETS = 32
"""Symbols in a line of brackets."""


@dataclass(frozen=True)
class Language:
    """Lines that a network learns to continue.

    Attributes:
        symbols: all there are.
        line: one line, of the same length each time.
    """

    symbols: str
    line: Callable[[np.random.Generator], str]


def sum_line(stream: np.random.Generator) -> str:
    """``a+b=c``, the digits of the sum from its last on, as they are computed.

    >>> len(sum_line(np.random.default_rng(0)))
    12
    """
    a, b = stream.integers(0, 1000, size=2)
    return f"{a:03d}+{b:03d}={f'{a + b:04d}'[::-1]}"


def difference_line(stream: np.random.Generator) -> str:
    """``a-b=c`` of two digits each, the larger first, the digits of the difference from its last on."""
    b, a = sorted(stream.integers(0, 100, size=2))
    return f"{a:02d}-{b:02d}={f'{a - b:02d}'[::-1]}"


def bracket_line(stream: np.random.Generator) -> str:
    """Brackets of three kinds, each closed in its order: every second one opens, as far as all can still be closed."""
    line, open_ones = "", ""
    for place in range(BRACKETS):
        must_close = len(open_ones) == BRACKETS - place
        if not open_ones or (not must_close and stream.random() < 0.5):
            pair = PAIRS[stream.integers(len(PAIRS))]
            line, open_ones = line + pair[0], open_ones + pair[1]
        else:
            line, open_ones = line + open_ones[-1], open_ones[:-1]
    return line


LANGUAGES = {
    "sums": Language("0123456789+=", sum_line),
    "differences": Language("0123456789-=", difference_line),
    "brackets": Language("".join(PAIRS), bracket_line),
}
