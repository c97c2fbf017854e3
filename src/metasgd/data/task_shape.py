"""How large a task is."""

from dataclasses import dataclass

from metasgd.errors import raise_problems, too_large, too_small

MOST = 1_000_000
"""Of ways, shots and queries: more are a slip of the hand, and would take all the memory."""


@dataclass(frozen=True)
class TaskShape:
    """N ways, K shots and Q queries per class; and whether all the classes come from one alphabet."""

    n_way: int
    k_shot: int
    n_query: int
    one_alphabet: bool = False

    def __post_init__(self) -> None:
        sizes = (("n_way", self.n_way), ("k_shot", self.k_shot), ("n_query", self.n_query))
        problems = too_small(*((name, size, 1) for name, size in sizes))
        raise_problems(problems + too_large(*((name, size, MOST) for name, size in sizes)))

    def validate_without_classes(self, task: str, tasks: str) -> None:
        """Refuse what only tasks of classes have.

        Args:
            task: what a task is called, for messages.
            tasks: what several are.

        Raises:
            UserError: there are several ways, or one alphabet is asked for.
        """
        problems = []
        if self.n_way != 1:
            problems.append(f"n_way is {self.n_way}: {task} has no classes, use 1")
        if self.one_alphabet:
            problems.append(f"one_alphabet is true: {tasks} have no alphabets, use false")
        raise_problems(problems)
