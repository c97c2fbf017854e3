"""The update rule of a checkpoint, against the one in the whole model of it."""

import pytest
import torch
import yaml
from support.runs import ROOT
from torch import nn

from metasgd.errors import UserError
from metasgd.learner.load import load
from metasgd.meta.model import MetaModel
from metasgd.nn.networks import MLP
from metasgd.rules import (
    ALFA,
    Fixed,
    InnerAdaGrad,
    InnerAdam,
    InnerRMSProp,
    MetaCurvature,
    OptimizerNetwork,
    PerBlock,
    PerLayerPerStep,
    PerParameter,
    PerParameterMomentum,
    Scalar,
    ScaledOptimizerNetwork,
    UpdateRule,
)
from metasgd.runs.checkpoint_schema import CONFIG_KEY
from metasgd.runs.rules import load_rule


def agree(found: UpdateRule, expected: UpdateRule) -> bool:
    own, other = found.state_dict(), expected.state_dict()
    return (
        type(found) is type(expected)
        and list(own) == list(other)
        and all(torch.equal(own[n], other[n]) and own[n].dtype == other[n].dtype for n in own)
        and (found.names, found.total_steps) == (expected.names, expected.total_steps)
        and found.identity() == expected.identity()
    )


@pytest.mark.parametrize("path", sorted(ROOT.glob("checkpoints/*/model.ckpt")), ids=lambda path: path.parent.name)
def test_the_rule_of_a_shipped_checkpoint_is_that_of_its_model(path):
    assert agree(load_rule(path), load(path).model.update_rule)


def saved(path, rule: UpdateRule, options: str = "{}", adapts="all", class_path: str = "", network=None):
    """A checkpoint of ``rule`` bound to a small network, as ``fit`` writes it."""
    model = MetaModel(network or MLP(1, [4], 2), rule, inner_steps=3, adapts=adapts)
    with torch.no_grad():
        for p in rule.parameters():
            p.uniform_()
    config = f"""
model:
  network: {{class_path: metasgd.nn.MLP, init_args: {{}}}}
  update_rule: {{class_path: {class_path or f"metasgd.rules.{type(rule).__name__}"}, init_args: {options}}}
  inner_steps: 3
  adapts: {adapts}
data: {{}}
"""
    torch.save({"state_dict": model.state_dict(), CONFIG_KEY: config}, path)
    return path


@pytest.mark.parametrize("adapts", ["all", "head", "body", ["body.1.*", "head.bias"]])
@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (Fixed, "{}"),
        (Scalar, "{momentum: 0.5}"),
        (PerBlock, "{}"),
        (PerLayerPerStep, "{bounds: [0, 1]}"),
        (PerParameter, "{init: [0.1, 0.2]}"),
        (PerParameterMomentum, "{}"),
        (OptimizerNetwork, "{per_layer: true, inputs: [loss, trend], hidden: [5]}"),
        (ScaledOptimizerNetwork, "{schedule: none}"),
        (MetaCurvature, "{}"),
        (MetaCurvature, "{learn_rates: false}"),
        (MetaCurvature, "{modes: [output, input], vectors: elementwise}"),
        (ALFA, "{decay: 0.1}"),
        (InnerAdam, "{beta1: 0.5, eps: 0.001}"),
        (InnerRMSProp, "{decay: 0.5}"),
        (InnerAdaGrad, "{init: [0.1, 0.2]}"),
    ],
)
def test_every_rule_is_bound_to_what_adapted(tmp_path, rule, options, adapts):
    expected = rule(**yaml.safe_load(options))
    assert agree(load_rule(saved(tmp_path / "some.ckpt", expected, options, adapts)), expected)


def test_layers_of_a_rule_are_not_taken_for_those_of_a_network_of_the_same_names(tmp_path):
    network = nn.Sequential(*(nn.Linear(1, 1) for _ in range(5)))  # 0.weight, as the rule's mlp.0.weight
    expected = OptimizerNetwork(hidden=[5])
    assert agree(load_rule(saved(tmp_path / "some.ckpt", expected, "{hidden: [5]}", network=network)), expected)


@pytest.mark.parametrize(
    ("class_path", "options", "said"),
    [
        ("os.system", "{}", "class_path is os.system: importing it would run the code"),
        ("metasgd.nn.MLP", "{}", "class_path is metasgd.nn.MLP, which is no network, update rule"),
        ("metasgd.rules.Gone", "{}", "class_path is metasgd.rules.Gone"),
        ("metasgd.rules.Scalar", "{gone: 1}", "cannot be built: .*gone"),
        ("metasgd.rules.PerParameter", "{}", "does not fit the model: alpha"),
    ],
)
def test_a_rule_that_cannot_be_built_is_named(tmp_path, class_path, options, said):
    path = saved(tmp_path / "some.ckpt", Scalar(), options, class_path=class_path)
    with pytest.raises(UserError, match=said):
        load_rule(path)


def test_weights_without_a_configuration_are_no_rule(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "some.ckpt")
    with pytest.raises(UserError, match="does not carry the configuration"):
        load_rule(tmp_path / "some.ckpt")
