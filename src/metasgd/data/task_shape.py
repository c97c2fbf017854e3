"""How large a task is."""

from dataclasses import dataclass

from metasgd.errors import raise_problems, too_small


@dataclass(frozen=True)
class TaskShape:
    """N ways, K shots and Q queries per class; and whether all the classes come from one alphabet."""

    n_way: int
    k_shot: int
    n_query: int
    one_alphabet: bool = False

    def __post_init__(self) -> None:
        limits = (("n_way", self.n_way, 1), ("k_shot", self.k_shot, 1), ("n_query", self.n_query, 1))
        raise_problems(too_small("data.", *limits))
