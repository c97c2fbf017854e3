"""Which layers an adaptation moves, for networks of which it is known."""

import pytest
import torch
from torch import nn

from metasgd.episode import Episode
from metasgd.meta.model import MetaModel
from metasgd.meta.reached import adapts_in_words, reached
from metasgd.nn import MLP, Conv4
from metasgd.rules import PerParameter

WAYS, SHOTS = 3, 2


@pytest.fixture(scope="module")
def tasks():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(WAYS).repeat(SHOTS)[None]
    x = torch.rand(1, WAYS * SHOTS, 1, 8, 8, generator=generator)
    return Episode(x, y, x, y, torch.arange(WAYS)[None], torch.zeros(1, dtype=torch.int64))


def moved(tasks, inner_steps, head, adapts="all"):
    torch.manual_seed(0)
    network = Conv4(n_way=WAYS, in_channels=1, image_size=8, width=4, head=head)
    model = MetaModel(network, PerParameter(0.1), adapts=adapts)
    found = reached(model.config, (), tasks, inner_steps)
    return found, adapts_in_words(model.config, found)


def test_at_a_class_agnostic_heads_first_step_the_head_alone_moves(tasks):
    assert moved(tasks, 1, "class_agnostic") == ({"head.weight"}, "head")  # classes of one size


@pytest.mark.parametrize(("head", "steps"), [("class_agnostic", 2), ("prototype", 1), ("linear", 1)])
def test_all_layers_move_but_for_biases_before_batch_norm(tasks, head, steps):
    found, words = moved(tasks, steps, head)
    unseen = {f"body.{layer}.0.bias" for layer in range(4)}
    network = Conv4(n_way=WAYS, in_channels=1, image_size=8, width=4, head=head)
    rows = {n for n, _ in network.named_parameters() if ".log_" not in n}
    assert found == rows - unseen
    assert words == "all"


def test_without_a_step_nothing_moves(tasks):
    assert moved(tasks, 0, "prototype") == (frozenset(), "nothing (prototypes)")


def test_what_does_not_adapt_does_not_move(tasks):
    assert moved(tasks, 1, "prototype", "head")[1] == "head"
    assert moved(tasks, 1, "prototype", ["body.3.*", "head.*"])[1] == "3 of 9 layers"


def test_a_dead_layer_hides_what_is_below_it(tasks):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, WAYS))
    with torch.no_grad():
        network[1].bias.fill_(-1e3)
    model = MetaModel(network, PerParameter(0.1))
    found = reached(model.config, (), tasks, 1)
    assert found == {"3.bias"}
    assert adapts_in_words(model.config, found) == "1 of 2 layers"


def test_the_model_stays_as_it_is():
    model = MetaModel(MLP(1, [4], 1), PerParameter(0.1), loss="mse")
    x = torch.rand(1, 5, 1)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    curve = Episode(x, x.sin(), x, x.sin(), torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    assert reached(model.config, (), curve, 2) == {n for n, _ in model.network.named_parameters()}
    assert all(torch.equal(t, before[n]) and t.dtype == before[n].dtype for n, t in model.state_dict().items())
