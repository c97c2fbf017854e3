"""Layers that neither adapt nor learn: each example passes them once, and no derivative is taken in them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from metasgd.episode import Episode
from metasgd.errors import UserError
from metasgd.meta.model import MetaModel
from metasgd.meta.trial import few
from metasgd.nn import Backbone
from metasgd.rules import PerBlock


class OnceOnly(torch.autograd.Function):
    """A tanh whose second derivative is taken for zero."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.tanh())
        return x.tanh()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad * (1 - ctx.saved_tensors[0].detach() ** 2)


class Counted(nn.Sequential):
    """Keeps the sizes of the batches that it was given."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return super().forward(x)


class Net(nn.Module):
    """Two blocks of 4 filters."""

    def __init__(self, once_only: bool = False) -> None:
        super().__init__()
        self.block1 = Counted(nn.Conv2d(3, 4, 3, 2), nn.GroupNorm(2, 4))
        self.block2 = nn.Conv2d(4, 4, 3)
        self.once_only = once_only

    def forward(self, x: Tensor) -> Tensor:
        h = self.block1(x)
        h = OnceOnly.apply(h) if self.once_only else h.tanh()
        return self.block2(h).tanh().mean(dim=(2, 3))


def model_of(network: nn.Module, adapts: str, learns: str, engine: str, inner_steps: int = 2) -> MetaModel:
    model = MetaModel(network, PerBlock(0.1), inner_steps=inner_steps, adapts=adapts, engine=engine).double()
    unlearned = frozenset(n for n in model.config.theta if not n.startswith(learns))
    model.config = replace(model.config, unlearned=unlearned)
    return model


def tasks_of(n_tasks: int = 2, seed: int = 0) -> Episode:
    x = torch.rand(n_tasks, 9, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    y = torch.arange(3)
    rest = torch.zeros(n_tasks, 3, dtype=torch.int64), torch.arange(n_tasks)
    return Episode(x[:, :3], y.expand(n_tasks, 3), x[:, 3:], y.repeat_interleave(2).expand(n_tasks, 6), *rest)


@pytest.mark.parametrize("engine", ["loop", "threads", "vmap"])
def test_the_gradient_of_what_learns_is_that_of_the_whole_network(engine):
    torch.manual_seed(0)
    network, tasks = Backbone(Net(), image_size=8, classifier="").double(), tasks_of()
    whole = MetaModel(network, PerBlock(0.1), inner_steps=2, adapts="head", engine="loop").double()
    expected = whole.meta_gradient(tasks)
    model = model_of(network, "head", ("body.block2.", "head."), engine)
    found = model.meta_gradient(tasks)
    torch.testing.assert_close(found.query_losses, expected.query_losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.phi, expected.phi, rtol=1e-9, atol=1e-13)
    for name, g in expected.theta.items():
        if name.startswith("body.block1."):
            assert g.any()
            assert not found.theta[name].any()
        else:
            torch.testing.assert_close(found.theta[name], g, rtol=1e-9, atol=1e-13)


def test_each_example_passes_frozen_layers_once():
    torch.manual_seed(0)
    network, tasks = Backbone(Net(), image_size=8, classifier="").double(), tasks_of()
    model = model_of(network, "head", ("body.block2.", "head."), "loop", inner_steps=3)
    model.as_inputs(tasks)  # which tries it
    seen = network.body.block1.seen
    seen.clear()
    model.meta_gradient(tasks)
    assert seen == [9, 9]
    seen.clear()
    model.evaluate(tasks, after=range(4))
    assert seen == [9, 9]


def test_a_task_has_the_same_bits_whichever_tasks_are_beside_it():
    torch.manual_seed(0)
    network, tasks = Backbone(Net(), image_size=8, classifier="").float(), tasks_of(3)
    tasks = Episode(*(f.float() if f.is_floating_point() else f for f in tasks))
    model = model_of(network, "head", ("head.",), "loop").float()
    together = model.meta_gradient(tasks).query_losses
    assert torch.equal(together[1:2], model.meta_gradient(tasks.tasks(1, 2)).query_losses)


def test_what_nothing_goes_back_through_needs_no_derivative():
    torch.manual_seed(0)
    network, tasks = Backbone(Net(once_only=True), image_size=8, classifier=""), tasks_of()
    with pytest.raises(UserError, match="whose second derivative"):
        model_of(network, "body.block1.*", ("body.", "head."), "loop").meta_gradient(tasks)
    gradient = model_of(network, "body.block2.*", ("head.",), "loop").meta_gradient(tasks)
    assert gradient.theta["head.log_temperature"].any()
    assert not gradient.theta["body.block1.0.weight"].any()


def test_a_network_is_tried_on_few_examples_of_each_class():
    y, query_y = torch.tensor([2, 0, 1, 0, 1, 2, 0, 1]), torch.tensor([1, 1, 1, 2])
    x, query_x = torch.arange(8.0)[:, None], torch.arange(4.0)[:, None]
    whole = Episode(x[None], y[None], query_x[None], query_y[None], torch.zeros(1, 3), torch.zeros(1))
    tried = few(whole)
    assert tried.support_x.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert tried.support_y.flatten().tolist() == [2, 0, 1, 0, 1, 2]
    assert tried.query_x.flatten().tolist() == [0, 1, 3]
    many = whole._replace(classes=torch.zeros(1, 40))
    assert few(many).support_y.flatten().tolist() == [2, 0, 1]
    points = whole._replace(support_y=torch.rand(1, 8, 1), query_y=torch.rand(1, 4, 1), classes=torch.zeros(1, 1))
    assert few(points).support_x.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert few(points).query_x.shape == (1, 4, 1)
