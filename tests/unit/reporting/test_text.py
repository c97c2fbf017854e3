"""Text of a user's that would be markup, mathematics, a command or control of the terminal elsewhere."""

import io
import shlex

import pytest
from matplotlib.figure import Figure

from metasgd.reporting.text import figure_text, printable, shell_command

NAMES = [
    "[/red]",
    r"$\frac$",
    "<script>alert(1)</script>",
    "=cmd()",
    "two\nlines",
    "x" * 5000,
    "שלום",
    "عربي",
    "a b'c\"d",
]
NAMES += ["_hidden", "\x1b[2J\x07", "\u202eabc", "\udcff", "%s {} \\", "$", "-1", "`id` $(id)"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b", "a b"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\x1b[2J\x9b", r"\x1b[2J\x9b"),
        ("\u202eabc\u2028", r"\u202eabc\u2028"),
        ("\udcff", r"\udcff"),
        ("שלום \u3000 می\u200cخواهم", "שלום \u3000 می\u200cخواهم"),
        (3, "3"),
    ],
)
def test_text_is_shown_on_one_line_and_can_be_encoded(text, shown):
    assert printable(text) == shown
    assert printable(text).encode().decode() == shown


def test_long_text_is_cut():
    assert printable("abcdef", most=4) == "abc…"
    assert printable("abcd", most=4) == "abcd"


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_draws_a_name_letter_by_letter(name):
    figure = Figure()
    panel = figure.subplots()
    panel.plot([0, 1], label=figure_text(name))
    panel.set_title(figure_text(name))
    handles, labels = panel.get_legend_handles_labels()
    assert len(handles) == 1  # none is left out of the legend
    panel.legend(handles, labels)
    assert not panel.title.get_text().count("$") - panel.title.get_text().count(r"\$")
    for letters in (figure_text(name), figure_text(name, most=3)):
        panel.set_title(letters)
        if letters.isascii():  # the font has these
            figure.savefig(io.BytesIO(), format="png")


def test_names_with_spaces_quotes_and_line_ends_are_quoted_as_shlex_does():
    words = ["metasgd", "test", "--config", "a b'c\"d\ne/config.yaml"]
    assert shell_command(words) == shlex.join(words)
    assert shlex.split(shell_command(words)) == words
