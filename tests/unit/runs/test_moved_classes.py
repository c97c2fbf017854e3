from pydoc import locate

import pytest

from metasgd.runs.moved_classes import MOVED_CLASSES, with_present_paths


@pytest.mark.parametrize("present", MOVED_CLASSES.values())
def test_every_present_path_is_a_class(present):
    assert isinstance(locate(present), type)


def test_paths_are_replaced_wherever_they_stand_and_nothing_else_is():
    config = {"a": [{"class_path": "metasgd.networks.MLP", "init_args": {"width": 3}}], "b": "metasgd.networks.MLP5"}
    assert with_present_paths(config) == {
        "a": [{"class_path": "metasgd.nn.MLP", "init_args": {"width": 3}}],
        "b": "metasgd.networks.MLP5",
    }
