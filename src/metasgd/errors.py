"""What the user got wrong, said once and in full."""

from collections.abc import Sequence


class UserError(ValueError):
    """A mistake in the configuration, the data or a checkpoint.

    Each problem names the option, its value, what is allowed and what to do next. The command line prints
    them without a traceback and leaves with exit code 2.
    """

    def __init__(self, *problems: str) -> None:
        if not problems:
            raise TypeError("UserError needs at least one problem")
        self.problems = problems
        super().__init__("\n".join(problems))

    def after(self, start: str) -> "UserError":
        """The same, with ``start`` before each problem."""
        return UserError(*(f"{start}{problem}" for problem in self.problems))


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def raise_problems(problems: Sequence[str]) -> None:
    """Raise one ``UserError`` with all the problems found, each once, or do nothing if there are none."""
    if problems:
        raise UserError(*dict.fromkeys(problems))


def too_small(where: str, *limits: tuple[str, float | None, float]) -> list[str]:
    """A problem for each option under the least value allowed.

    Args:
        where: the option's path, up to its name: ``data.``.
        limits: (option, value, least); a value of None was not given.
    """
    return [
        f"{where}{option} is {value}: at least {least} is needed"
        for option, value, least in limits
        if value is not None and value < least
    ]


def too_large(where: str, *limits: tuple[str, float | None, float]) -> list[str]:
    """A problem for each option above the greatest value allowed.

    Args:
        where: the option's path, up to its name: ``data.``.
        limits: (option, value, most); a value of None was not given.
    """
    return [
        f"{where}{option} is {value}: at most {most} is possible"
        for option, value, most in limits
        if value is not None and value > most
    ]
