"""What the user got wrong, said once and in full."""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any


class UserError(ValueError):
    """A mistake in the configuration, the data or a checkpoint.

    Each problem names the argument, its value, what is allowed and what to do next. The command line puts the
    option's path before the argument's name (see ``at_argument``), prints the problems without a traceback and exits
    with code 2.

    Args:
        problems: one sentence or two for each mistake, such as ``width is 0: at least 1 is needed``.

    Example:
        >>> try:
        ...     raise UserError("width is 0: at least 1 is needed")
        ... except ValueError as error:
        ...     print(error)
        width is 0: at least 1 is needed
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


def some_of(names: Sequence[str], most: int) -> str:
    """The first of the names, and how many more there are: ``a, b and 4 more``."""
    return ", ".join(names[:most]) + f" and {len(names) - most} more" * (len(names) > most)


def counted(n: int, what: str) -> str:
    """How many there are: ``1 step``, ``2 steps``."""
    return f"{n} {what}{'s' * (n != 1)}"


def raise_problems(problems: Sequence[str]) -> None:
    """Raise one ``UserError`` with all the problems found, each once, or do nothing if there are none."""
    if problems:
        raise UserError(*dict.fromkeys(problems))


@contextmanager
def at_argument(path: str, names: Set[str]) -> Iterator[None]:
    """Put the path of an option before the argument that a problem raised inside begins with.

    Args:
        path: of the options that the arguments are given by, such as ``model.network.init_args``.
        names: the arguments; a problem that begins with anything else is left as it is.

    Raises:
        UserError: the one raised inside, with the path.

    Example:
        >>> try:
        ...     with at_argument("model.network.init_args", {"width"}):
        ...         raise UserError("width is 0: at least 1 is needed", "the file is empty")
        ... except UserError as error:
        ...     print(error)
        model.network.init_args.width is 0: at least 1 is needed
        the file is empty
    """
    try:
        yield
    except UserError as error:
        problems = tuple(_at(path, names, problem) for problem in error.problems)
        if problems == error.problems:
            raise
        raise UserError(*problems) from error


def _at(path: str, names: Set[str], problem: str) -> str:
    argument = re.match(r"(\w+) (?:is|has|and) ", problem)
    return f"{path}.{problem}" if argument and argument[1] in names else problem


def arguments_of(made: Callable[..., Any]) -> Set[str]:
    """The names of the arguments of a class or a function."""
    return inspect.signature(made).parameters.keys()


def too_small(*limits: tuple[str, float | None, float], where: str = "") -> list[str]:
    """A problem for each argument under the least value allowed.

    Args:
        limits: (argument, value, least); a value of None was not given.
        where: what stands before the argument's name, such as ``--``.
    """
    return [
        f"{where}{name} is {value}: at least {least} is needed"
        for name, value, least in limits
        if value is not None and value < least
    ]


def too_large(*limits: tuple[str, float | None, float]) -> list[str]:
    """A problem for each argument above the greatest value allowed.

    Args:
        limits: (argument, value, most); a value of None was not given.
    """
    return [
        f"{name} is {value}: at most {most} is possible"
        for name, value, most in limits
        if value is not None and value > most
    ]
