import sys

from metasgd.cli.changed_settings import changed_settings


def test_options_at_their_defaults_are_left_out():
    config = {
        "seed_everything": 0,
        "model": {
            "network": {"class_path": "metasgd.nn.MLP", "init_args": {"in_features": 1, "hidden": [40, 40]}},
            "update_rule": {"class_path": "metasgd.rules.PerParameter", "init_args": {"init": 0.3}},
            "inner_steps": 1,
            "eval_inner_steps": 4,
            "outer": {"alternate": 0, "gradient_clip_norm": 1.0},
        },
        "data": {"source": {"class_path": "own.Source", "init_args": {"a": 1}}, "n_way": 5},
        "trainer": {"max_epochs": 1, "max_steps": 7, "callbacks": None},
    }
    assert changed_settings(config) == {
        "seed_everything": 0,
        "model": {
            "network": {"class_path": "metasgd.nn.MLP", "init_args": {}},
            "update_rule": {"class_path": "metasgd.rules.PerParameter", "init_args": {"init": 0.3}},
            "eval_inner_steps": 4,
            "outer": {"gradient_clip_norm": 1.0},
        },
        "data": {"source": {"class_path": "own.Source", "init_args": {"a": 1}}},
        "trainer": {"max_steps": 7},
    }
    assert "own" not in sys.modules


def test_a_configuration_that_is_none_stays():
    assert changed_settings({"model": "x", "other": [1]}) == {"model": "x", "other": [1]}
