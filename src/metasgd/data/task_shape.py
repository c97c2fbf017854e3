"""How large a task is."""

from dataclasses import dataclass

from metasgd.errors import refuse


@dataclass(frozen=True)
class TaskShape:
    """N ways, K shots and Q queries per class; and whether all the classes come from one alphabet."""

    n_way: int
    k_shot: int
    n_query: int
    one_alphabet: bool = False

    def __post_init__(self) -> None:
        refuse(
            [
                f"data.{option} is {value}: at least 1 is needed"
                for option, value in (
                    ("n_way", self.n_way),
                    ("k_shot", self.k_shot),
                    ("n_query", self.n_query),
                )
                if value < 1
            ]
        )
