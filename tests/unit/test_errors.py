import pytest

from metasgd.errors import UserError, at_argument, first_line


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


def test_an_argument_gets_its_path_and_other_messages_stay():
    problems = ("width is 0: too few", "widths is []", "data.width is 1", "width and depth differ", "It is broken")
    with pytest.raises(UserError) as raised, at_argument("network", {"width", "depth"}):
        raise UserError(*problems)
    placed = ("network.width is 0: too few", *problems[1:3], "network.width and depth differ", problems[4])
    assert raised.value.problems == placed


def test_the_innermost_path_stands():
    outer, inner = at_argument("outer", {"seed", "inner"}), at_argument("inner", {"seed"})
    with pytest.raises(UserError, match=r"^inner\.seed is -1$"), outer, inner:
        raise UserError("seed is -1")
