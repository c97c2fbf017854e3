"""A user's own text (names of classes, runs and files) where it would otherwise be read as something else."""

import shlex
import unicodedata
from collections.abc import Iterable

JOINERS = "\u200c\u200d"
"""Format characters that words and emoji are spelt with."""


def printable(text: object, most: int | None = None) -> str:
    r"""Text on one line, without what moves a terminal's cursor, reorders the line or cannot be encoded.

    Control and format characters, line separators and lone surrogates become escapes. Letters of any script stay.

    Args:
        text: anything; what ``str`` makes of it is shown.
        most: characters shown; longer text is cut and ends in ``…``.

    Returns:
        The text to show.

    >>> printable("a\nb\x1b[2J", most=8)
    'a\\nb\\x1b…'
    """
    shown = "".join(c if _is_plain(c) else c.encode("unicode_escape").decode() for c in str(text))
    return shown if most is None or len(shown) <= most else shown[: most - 1] + "…"


def _is_plain(c: str) -> bool:
    return c.isprintable() or c in JOINERS or unicodedata.category(c) in ("Zs", "Co", "Cn")


def figure_text(text: object, most: int = 40) -> str:
    r"""Text as matplotlib draws it letter by letter: no mathematics between dollars, no label that is hidden.

    >>> figure_text(r"$\frac$")
    '\\$\\frac\\$'
    """
    shown = printable(text, most).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown  # labels with an underscore have no place in a legend


def shell_command(words: Iterable[object]) -> str:
    r"""A command to paste into a shell, whatever its words hold.

    Words are quoted as ``shlex.quote`` does; one with control characters other than a line's end, which a terminal
    would not take as they are, in bash's ``$'…'``.

    >>> shell_command(["metasgd", "report", "my run"])
    "metasgd report 'my run'"
    """
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    if _is_plain_but_for_lines(word):
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'").encode("utf-8", "surrogateescape")
    bytes_shown = "".join(chr(b) if 32 <= b < 127 else f"\\x{b:02x}" for b in escaped)
    return f"$'{bytes_shown}'"


def _is_plain_but_for_lines(word: str) -> bool:
    return all(_is_plain(c) or c == "\n" for c in word)
