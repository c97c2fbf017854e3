import pytest

from metasgd.data.task_shape import TaskShape
from metasgd.errors import UserError


def test_everything_below_one_is_named():
    with pytest.raises(UserError) as raised:
        TaskShape(0, -1, 0)
    assert raised.value.problems == (
        "n_way is 0: at least 1 is needed",
        "k_shot is -1: at least 1 is needed",
        "n_query is 0: at least 1 is needed",
    )
