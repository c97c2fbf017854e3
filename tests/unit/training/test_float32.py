"""Meta-gradients in float32 against float64, at the sizes of what is shipped."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import moved
from support.runs import ROOT

import metasgd
from metasgd.cli.app import MetaSGDCLI
from metasgd.episode import Episode
from metasgd.meta.closed_form.inner_loop import ClosedFormInnerLoop
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import inner_loop_of, meta_gradient
from metasgd.meta.truncated_unroll import TruncatedUnroll
from metasgd.nn.networks import Conv4
from metasgd.rules.gradient_descent import PerParameter

CLOSE = 3e-5
"""Of the whole of dθ, by its norm."""
INNER_STEPS = 3
"""At most: over many, any rounding grows."""
CHECKPOINTS = sorted(path.parent.name for path in (ROOT / "checkpoints").glob("*/model.ckpt"))
CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.yaml") if not p.stem.startswith(("train_", "compare_")))
SHOWN = {"checkpoints": {"omniglot", "sinusoid", "optimizer_network"}, "configs": {"omniglot", "glyphs"}}
"""What the default run looks at; the rest is slow."""


def drawings(n_way, k_shot, n_query, shape):
    """A task of white shapes on black, as Omniglot's: most places are alike."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = shape
    classes = torch.randn(n_way, channels, height + 6, width + 6, generator=generator)

    def draw(per_class):
        noise = torch.randn(n_way * per_class, *classes.shape[1:], generator=generator)
        smooth = F.avg_pool2d(classes.repeat_interleave(per_class, 0) + 0.5 * noise, 7, stride=1)
        return (7 * smooth > 0.8).float()[None], torch.arange(n_way).repeat_interleave(per_class)[None]

    return Episode(*draw(k_shot), *draw(n_query), torch.zeros(1, n_way, dtype=torch.int64), torch.arange(1))


def curve(k_shot, n_query):
    generator = torch.Generator().manual_seed(0)
    x, query_x = (10 * torch.rand(1, n, 1, generator=generator) - 5 for n in (k_shot, n_query))
    return Episode(x, x.sin(), query_x, query_x.sin(), torch.zeros(1, 1, dtype=torch.int64), torch.arange(1))


def task_for(module, n_way, k_shot, n_query):
    """Long runs see as many shots at a step as a minibatch has."""
    k_shot = getattr(module.unroll, "minibatch_shots", k_shot)
    shape = getattr(module.network, "image_shape", None)
    return curve(k_shot, n_query) if shape is None else drawings(n_way, k_shot, n_query, shape)


def errors(learner, task, inner_steps):
    """How far closed forms and autograd in float32 are from float64, relative to it."""
    single = moved(learner, task, torch.float32)
    double = moved(*single, torch.float64)
    steps = min(inner_steps, INNER_STEPS)

    def theta(own, tasks):
        gradient = meta_gradient(own, own.theta, tasks, steps).theta
        return torch.cat([g.double().flatten() for g in gradient.values()])

    assert type(inner_loop_of(single[0], single[0].theta, single[1])) is ClosedFormInnerLoop
    expected = theta(replace(double[0], closed_form=False), double[1])
    found = [theta(replace(single[0], closed_form=closed), single[1]) for closed in (True, False)]
    return [((one - expected).norm() / expected.norm()).item() for one in found]


def assert_close(module, task):
    closed, autograd = errors(module.config, task, module.inner_steps)
    # long runs start from random weights, and a rule that divides by the size of gradients makes much of rounding
    assert closed < (max(CLOSE, 3 * autograd) if isinstance(module.unroll, TruncatedUnroll) else CLOSE)


def cases(of, names):
    return [pytest.param(n, marks=[] if n in SHOWN[of] else pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", cases("checkpoints", CHECKPOINTS))
def test_a_shipped_checkpoint(name):
    learner = metasgd.load(ROOT / "checkpoints" / name / "model.ckpt")
    module, data = learner.module, learner.config["data"]
    task = task_for(module, data["n_way"], data["k_shot"], data["n_query"])
    assert_close(module, task)


def test_sixty_ways():
    module = metasgd.load(ROOT / "checkpoints" / "omniglot" / "model.ckpt").module
    assert errors(module.config, task_for(module, 60, 1, 5), 1)[0] < CLOSE


@pytest.mark.parametrize("name", cases("configs", CONFIGS))
def test_a_shipped_configuration(name, monkeypatch):
    monkeypatch.setattr(MetaSGDCLI, "_run_subcommand", lambda self, subcommand: None)
    monkeypatch.setattr("sys.argv", ["metasgd"])
    torch.manual_seed(0)
    built = MetaSGDCLI(["fit", "--config", str(ROOT / "configs" / f"{name}.yaml")])
    shape = built.datamodule.train_shapes[0]
    task = task_for(built.model, shape.n_way, shape.k_shot, shape.n_query)
    assert_close(built.model, task)


@pytest.mark.parametrize("name", ["omniglot", "optimizer_network"])
def test_inputs_that_vary_little_around_a_large_mean(name):
    module = metasgd.load(ROOT / "checkpoints" / name / "model.ckpt").module
    task = task_for(module, 20, 1, 5)
    generator = torch.Generator().manual_seed(1)
    noise = {f: 100 + 0.1 * torch.randn(getattr(task, f).shape, generator=generator) for f in ("support_x", "query_x")}
    closed, autograd = errors(module.config, task._replace(**noise), module.inner_steps)
    assert closed < 10 * autograd


@pytest.mark.parametrize("level", [0.0, 0.7, 1.0])
def test_flat_pictures(level):
    torch.manual_seed(0)
    network = Conv4(n_way=5, width=16)
    rule = PerParameter(0.1)
    rule.bind(dict(network.named_parameters()), 2)
    task = drawings(5, 1, 3, (1, 28, 28))
    flat = {f: torch.full_like(getattr(task, f), level) for f in ("support_x", "query_x")}
    learner = InnerLoopConfig(network, rule, F.cross_entropy, frozenset(dict(network.named_parameters())))
    for own in (learner, replace(learner, closed_form=False)):
        gradient = meta_gradient(own, own.theta, task._replace(**flat), 2)
        assert all(g.isfinite().all() for part in (gradient.theta, gradient.phi) for g in part.values())
