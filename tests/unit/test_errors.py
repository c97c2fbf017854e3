import pytest

from metasgd.errors import UserError, first_line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError(), "ValueError"),
        (KeyError("a"), "'a'"),
        (RuntimeError("\n"), "RuntimeError"),
    ],
)
def test_an_error_says_its_first_line_or_its_type(error, said):
    assert first_line(error) == said


def test_all_the_problems_of_an_error_are_put_after_the_same_words():
    assert UserError("a", "b").after("x: ").problems == ("x: a", "x: b")
