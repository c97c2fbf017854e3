import pytest

from metasgd.runs.differences import Difference, differences

CONV4 = {"class_path": "metasgd.nn.Conv4", "init_args": {"width": 64, "head": "linear"}}


def found(saved, own, free=()):
    return [*differences("model.network", saved, own, free)]


def test_values_are_compared_and_named_as_on_the_command_line():
    own = {"class_path": "metasgd.nn.Conv4", "init_args": {"width": 32, "head": "linear"}}
    assert found(CONV4, own) == [Difference("model.network.width", 64, 32)]
    assert found(CONV4, own, free=("width",)) == []


def test_of_two_classes_only_their_names_differ():
    own = {"class_path": "metasgd.nn.MLP", "init_args": {"width": 3}}
    assert found(CONV4, own) == [Difference("model.network", "Conv4", "MLP")]


def test_a_class_is_the_same_wherever_it_is_imported_from():
    assert found(CONV4, {**CONV4, "class_path": "metasgd.Conv4"}) == []


@pytest.mark.parametrize("one_more", [{"depth": 3}, {"depth": None}])
def test_options_of_another_version_are_passed_over(one_more):
    own = {**CONV4, "init_args": {**CONV4["init_args"], **one_more}}
    assert found(CONV4, own) == found(own, CONV4) == []


@pytest.mark.parametrize(
    ("class_path", "option", "default", "other"),
    [
        ("metasgd.nn.Conv4", "features", "rectified", "normalised"),
        ("metasgd.nn.MLP", "hidden", [40, 40], [40]),
        ("metasgd.data.Omniglot", "mirrors", False, True),
        ("torch.optim.Adam", "weight_decay", 0, 0.1),
    ],
)
def test_an_option_that_a_class_got_since_counts_at_its_default(class_path, option, default, other):
    saved = {"class_path": class_path}
    assert found(saved, {**saved, "init_args": {option: default}}) == []
    own = {**saved, "init_args": {option: other}}
    assert found(saved, own) == [Difference(f"model.network.{option}", default, other)]
    assert found(own, saved) == []


@pytest.mark.parametrize("other", [None, "Conv4", 3])
def test_a_class_is_not_a_value(other):
    assert found(CONV4, other) == [Difference("model.network", "Conv4", other)]
    assert found(other, CONV4) == [Difference("model.network", other, "Conv4")]


def test_lists_are_values():
    assert found({"hidden": [16, 16]}, {"hidden": [16]}) == [Difference("model.network.hidden", [16, 16], [16])]
