from pathlib import Path

import pytest
import yaml
from torch import nn

from metasgd.errors import UserError
from metasgd.rules.base import UpdateRule
from metasgd.rules.gradient_descent import Fixed, PerParameter, Scalar
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.rules.scaled_network import ScaledOptimizerNetwork
from metasgd.runs.checkpoint_schema import CONFIG_KEY
from metasgd.runs.compatibility import other_protocol, validate_same_model, validate_same_run

PATH = Path("x.ckpt")
CONV4 = {"class_path": "metasgd.nn.Conv4", "init_args": {"downsample": "stride", "n_way": 5, "width": 8}}


def config(rule="metasgd.rules.PerParameter", network=CONV4, model=(), data=(), **options):
    update_rule = {"class_path": rule, "init_args": options}
    source = {"class_path": "metasgd.data.Omniglot", "init_args": {"mirrors": False, "download": False}}
    return {
        "model": {"network": network, "update_rule": update_rule, "inner_steps": 1, "loss": "mse", **dict(model)},
        "data": {"source": source, "root": "here", "k_shot": 1, **dict(data)},
    }


def content(saved):
    return {CONFIG_KEY: yaml.safe_dump(saved)}


class Mine(UpdateRule):
    fixed = ("power",)
    power = 2


@pytest.mark.parametrize(
    ("saved", "rule", "said"),
    [
        (config(), Scalar(), "its model.update_rule is PerParameter, the configured one Scalar"),
        (config("metasgd.rules.Fixed", momentum=0.5), Fixed(), "update_rule.momentum is 0.5, .* one 0.0"),
        (
            config("metasgd.rules.OptimizerNetwork", learning_rate=0.1, inputs=["loss", "step"]),
            OptimizerNetwork(0.2),
            r"inputs is \['loss', 'step'\], .* one \['loss'\]; .*learning_rate is 0.1, .* one 0.2",
        ),
        (
            config("metasgd.rules.OptimizerNetwork"),
            ScaledOptimizerNetwork(),
            "OptimizerNetwork, the configured one ScaledOptimizerNetwork",
        ),
        (config("own.Mine", power=3), Mine(), "update_rule.power is 3, the configured one 2"),
    ],
)
def test_a_rule_that_reads_its_weights_otherwise_is_refused(saved, rule, said):
    with pytest.raises(UserError, match=said):
        validate_same_model(PATH, content(saved), rule, CONV4)


def test_a_network_of_the_same_shapes_is_not_the_same():
    pooled = {**CONV4, "init_args": {**CONV4["init_args"], "downsample": "pool"}}
    with pytest.raises(UserError, match="model.network.downsample is stride, the configured one pool"):
        validate_same_model(PATH, content(config()), PerParameter(), pooled)
    with pytest.raises(UserError, match="model.network is Conv4, the configured one MLP"):
        validate_same_model(PATH, content(config()), PerParameter(), {"class_path": "metasgd.nn.MLP"})


def test_an_option_that_came_after_the_checkpoint_is_at_its_default():
    options = CONV4["init_args"]
    validate_same_model(
        PATH, content(config()), PerParameter(), {**CONV4, "init_args": {**options, "features": "rectified"}}
    )
    with pytest.raises(UserError, match="model.network.features is rectified, the configured one normalised"):
        validate_same_model(
            PATH, content(config()), PerParameter(), {**CONV4, "init_args": {**options, "features": "normalised"}}
        )


def test_what_means_the_same_is_taken():
    other_ways = {**CONV4, "init_args": {**CONV4["init_args"], "n_way": 20, "new_option": 1}}
    validate_same_model(PATH, content(config(init=0.1)), PerParameter(0.5), other_ways)
    validate_same_model(PATH, content(config("metasgd.rules.Scalar", init=0.1)), Scalar(0.7), CONV4)
    validate_same_model(PATH, {}, Scalar(), CONV4)


@pytest.mark.parametrize("text", ["", "3", "model: 3", "model: {}", "data: [1]\nmodel: {network: {}}", "{", "a: b: c"])
def test_a_configuration_that_makes_no_sense_is_named(text):
    with pytest.raises(UserError, match="the configuration in the checkpoint x.ckpt cannot be read"):
        validate_same_model(PATH, {CONFIG_KEY: text}, PerParameter(), CONV4)


def test_a_run_resumes_with_its_own_options_alone():
    saved = config()
    validate_same_run(PATH, content(saved), config())
    validate_same_run(PATH, content(saved), config(model={"engine": "loop"}, data={"root": "there", "val_tasks": 3}))
    for changed, said in (
        (config(data={"k_shot": 2}), "its data.k_shot is 1, the configured one 2"),
        (config(model={"inner_steps": 2}), "its model.inner_steps is 1, the configured one 2"),
        (
            config(data={"source": {"class_path": "metasgd.data.Glyphs"}}),
            "is Omniglot, the configured one Glyphs",
        ),
        (config(data={"source": "x"}), "its data.source is Omniglot, the configured one x"),
    ):
        with pytest.raises(UserError, match=said):
            validate_same_run(PATH, content(saved), changed)


def test_another_way_of_evaluating_is_said():
    full = {"inner_steps": 1, "eval_inner_steps": None, "transductive": True, "adapts": "all", "loss": "mse"}
    saved = content(config(model=full))
    assert other_protocol(PATH, saved, full) == []
    assert other_protocol(PATH, saved, {**full, "transductive": False, "inner_steps": 3}) == [
        "its model.inner_steps is 1, the configured one 3",
        "its model.transductive is True, the configured one False",
    ]


def test_a_rule_says_what_its_weights_mean():
    assert PerParameter().identity() == {"class": "PerParameter"}
    assert Scalar(momentum=0.5).identity() == {"class": "Scalar", "momentum": 0.5}
    rule = OptimizerNetwork(0.2, 0.3, inputs=("loss", "trend"), per_layer=True)
    rule.bind(dict(nn.Linear(1, 1).named_parameters()), 1)
    expected = {"class": "OptimizerNetwork", "learning_rate": 0.2, "momentum": 0.3, "per_layer": True, "schedule": None}
    assert rule.identity() == expected | {"inputs": ["loss", "trend"]}
