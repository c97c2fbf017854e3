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


def refuse(problems: Sequence[str]) -> None:
    """Raise one ``UserError`` with all the problems found, each once, or do nothing if there are none."""
    if problems:
        raise UserError(*dict.fromkeys(problems))
