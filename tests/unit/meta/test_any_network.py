"""Networks that nothing was made for: the meta-gradient of each against one graph of everything, in float64."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, largest_difference, tasks_of
from torch import nn
from torch.func import functional_call

from metasgd.errors import UserError
from metasgd.meta import engines
from metasgd.meta.engines import Loop, Threads, Vmap
from metasgd.meta.full_unroll import FullUnroll
from metasgd.meta.model import MetaModel
from metasgd.meta.truncated_unroll import TruncatedUnroll
from metasgd.nn.behaviour import undisturbed
from metasgd.nn.chance import changing_modules, without_chance
from metasgd.nn.networks import MLP, ClassAgnosticHead
from metasgd.rules.base import UpdateRule, key_of, name_of
from metasgd.rules.gradient_descent import PerParameter, PerParameterMomentum, Scalar

CPU = torch.device("cpu")
EXACT = 1e-9
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")


class Sequences(nn.Module):
    """Reads each number as a sequence of three; ``read`` makes one vector of the sequence."""

    def __init__(self):
        super().__init__()
        self.inp, self.out = nn.Linear(1, 4), nn.Linear(4, 1)

    def forward(self, x):
        steps = torch.stack([x, x.sin(), x.cos()], dim=1)
        return self.out(self.read(self.inp(steps)))


class Fused(Sequences):
    def read(self, h):
        return F.scaled_dot_product_attention(h, h, h).mean(1)


class FusedByHand(Fused):
    def read(self, h):
        return ((h @ h.mT / 2).softmax(-1) @ h).mean(1)


class Attention(Sequences):
    def __init__(self):
        super().__init__()
        self.mha = nn.MultiheadAttention(4, 2, batch_first=True)

    def read(self, h):
        return self.mha(h, h, h, need_weights=False)[0].mean(1)


def attention_by_hand(mha, h):
    b, s, e = h.shape
    q, k, v = (h @ mha.in_proj_weight.T + mha.in_proj_bias).reshape(b, s, 3, 2, 2).permute(2, 0, 3, 1, 4)
    heads = ((q @ k.mT / 2**0.5).softmax(-1) @ v).transpose(1, 2).reshape(b, s, e)
    return heads @ mha.out_proj.weight.T + mha.out_proj.bias


class AttentionByHand(Attention):
    def read(self, h):
        return attention_by_hand(self.mha, h).mean(1)


class Encoder(Sequences):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)

    def read(self, h):
        return self.layer(h).mean(1)


class EncoderByHand(Encoder):
    def read(self, h):
        layer = self.layer
        h = layer.norm1(h + attention_by_hand(layer.self_attn, h))
        return layer.norm2(h + layer.linear2(layer.linear1(h).relu())).mean(1)


class Lstm(Sequences):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 4, batch_first=True)

    def read(self, h):
        return self.rnn(h)[0][:, -1]


class LstmByHand(Lstm):
    def read(self, h):
        r = self.rnn
        y = c = h.new_zeros(len(h), 4)
        for x in h.unbind(1):
            i, f, g, o = (x @ r.weight_ih_l0.T + r.bias_ih_l0 + y @ r.weight_hh_l0.T + r.bias_hh_l0).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            y = o.sigmoid() * c.tanh()
        return y


class Gru(Sequences):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def read(self, h):
        return self.rnn(h)[0][:, -1]


class GruByHand(Gru):
    def read(self, h):
        r = self.rnn
        y = h.new_zeros(len(h), 4)
        for x in h.unbind(1):
            ri, zi, ni = (x @ r.weight_ih_l0.T + r.bias_ih_l0).chunk(3, dim=1)
            rh, zh, nh = (y @ r.weight_hh_l0.T + r.bias_hh_l0).chunk(3, dim=1)
            z = (zi + zh).sigmoid()
            y = (1 - z) * (ni + (ri + rh).sigmoid() * nh).tanh() + z * y
        return y


class Cell(Sequences):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 4)

    def read(self, h):
        y = h.new_zeros(len(h), 4)
        for x in h.unbind(1):
            y = self.cell(x, y)
        return y


class Deciding(Sequences):
    """Its way depends on values."""

    def read(self, h):
        h = h.mean(1)
        return h.tanh() * 2 if h.sum() > 0 or h.abs().max().item() < 1e9 else h.sin()


class DecidingByHand(Sequences):
    def read(self, h):
        return h.mean(1).tanh() * 2


class Writing(Sequences):
    """Writes into a tensor of its own making."""

    def read(self, h):
        y = torch.zeros(len(h), 4, dtype=h.dtype)
        y[:, :2] = h[:, 0, :2]
        y[:, 2:] = h[:, 1, 2:].tanh()
        return y


class WritingByHand(Sequences):
    def read(self, h):
        return torch.cat([h[:, 0, :2], h[:, 1, 2:].tanh()], dim=1)


class Closure(Sequences):
    """Its reading is a closure over the network, which a copy does not take along."""

    def __init__(self):
        super().__init__()
        self.mid = nn.Linear(4, 4)
        self.read = lambda h: self.mid(h).tanh().mean(1)


class ClosureByHand(Sequences):
    def __init__(self):
        super().__init__()
        self.mid = nn.Linear(4, 4)

    def read(self, h):
        return self.mid(h).tanh().mean(1)


class Locked(ClosureByHand):
    """Cannot be copied."""

    def __init__(self):
        super().__init__()
        self.once = (i for i in range(3))


class OldWeightNorm(Sequences):
    def __init__(self):
        super().__init__()
        self.mid = torch.nn.utils.weight_norm(nn.Linear(4, 4))

    def read(self, h):
        return self.mid(h).tanh().mean(1)


class WeightNormByHand(OldWeightNorm):
    def read(self, h):
        v = self.mid.weight_v
        return (h @ (self.mid.weight_g * v / v.norm(dim=1, keepdim=True)).T + self.mid.bias).tanh().mean(1)


class Tied(Sequences):
    """One layer under two names, and one weight in two layers."""

    def __init__(self):
        super().__init__()
        self.mid, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.again = self.mid
        self.other.weight = self.mid.weight

    def read(self, h):
        return self.other(self.again(self.mid(h).tanh()).tanh()).mean(1)


class TiedByHand(Sequences):
    def __init__(self):
        super().__init__()
        self.mid, self.other = nn.Linear(4, 4), nn.Module()
        self.other.bias = nn.Parameter(torch.zeros(4))

    def read(self, h):
        h = self.mid(self.mid(h).tanh()).tanh()
        return (h @ self.mid.weight.T + self.other.bias).mean(1)


class Named(Sequences):
    """Parameters with the names of a dictionary's methods."""

    def __init__(self):
        super().__init__()
        self.keys, self.values, self.items = (nn.Parameter(torch.randn(4)) for _ in range(3))
        self.register_buffer("pop", torch.ones(4, dtype=torch.float64))
        self.inner = nn.ParameterDict({"a/b": torch.randn(4), "a~1b": torch.randn(4)})

    def read(self, h):
        h = h * self.keys + self.values.tanh() * self.items * self.pop
        return (h * self.inner["a/b"]).mean(1) + self.inner["a~1b"]


class Answering(Sequences):
    def forward(self, x):
        return {"logits": super().forward(x), "hidden": x}

    def read(self, h):
        return h.tanh().mean(1)


class Routed(Sequences):
    """Each sequence goes through the expert that its gate chooses, so that some experts read no example of a task."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 6), nn.ModuleList(nn.Linear(4, 4) for _ in range(6))

    def read(self, h):
        gate = self.gate(h.mean(1))
        read = torch.stack([self.experts[k](each.mean(0)) for k, each in zip(gate.argmax(1).tolist(), h, strict=True)])
        return read * gate.softmax(1).amax(1, keepdim=True)


class Tempered(Sequences):
    """A temperature of its own, a number without dimensions."""

    def __init__(self):
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(0.3))

    def read(self, h):
        return (h * self.log_temperature.exp()).tanh().mean(1)


class PartlyFrozen(Sequences):
    def __init__(self):
        super().__init__()
        self.inp.requires_grad_(False)

    def read(self, h):
        return h.tanh().mean(1)


BY_HAND = {
    Fused: FusedByHand,
    Attention: AttentionByHand,
    Encoder: EncoderByHand,
    Lstm: LstmByHand,
    Gru: GruByHand,
    Cell: Cell,
    Deciding: DecidingByHand,
    Writing: WritingByHand,
    Closure: ClosureByHand,
    Locked: ClosureByHand,
    OldWeightNorm: WeightNormByHand,
    Tied: TiedByHand,
    Named: Named,
    Answering: Answering,
    Routed: Routed,
    Tempered: Tempered,
    PartlyFrozen: PartlyFrozen,
}
"""What each network computes, in operations that every part of torch can differentiate twice."""

UNABLE = {
    **dict.fromkeys([Lstm, Gru, Cell, Deciding, Writing, Routed], "vmap"),
    **dict.fromkeys([Closure, Locked], "threads"),
}
"""The engine that cannot run a network."""


def expected_gradient(config, tasks, steps):
    """Of Meta-SGD, by one graph of everything."""
    network = BY_HAND[type(config.network)]().double()
    theta = {n: p.detach().clone().requires_grad_(p.requires_grad) for n, p in config.network.named_parameters()}
    alpha = {n: config.rule.alpha[key_of(n)].detach().clone().requires_grad_() for n in sorted(config.adapted)}
    total = torch.zeros((), dtype=torch.float64)
    for b in range(tasks.n_tasks):
        x, y, qx, qy = (field[b] for field in tasks[:4])
        p = dict(theta)

        def forward(p, x):
            out = functional_call(network, p, (x,))
            return out["logits"] if isinstance(out, dict) else out

        for _ in range(steps):
            loss = config.loss(forward(p, x), y)
            at = [p[n] for n in alpha]
            g = torch.autograd.grad(loss, at, create_graph=True, allow_unused=True, materialize_grads=True)
            p = {**p, **{n: p[n] - alpha[n] * d for n, d in zip(alpha, g, strict=True)}}
        total = total + config.loss(forward(p, qx), qy)
    learned = [t for t in (*theta.values(), *alpha.values()) if t.requires_grad]
    found = torch.autograd.grad(total, learned, allow_unused=True, materialize_grads=True)
    grads = dict(zip(map(id, learned), found, strict=True))
    return (
        {n: grads.get(id(t), torch.zeros_like(t)) for n, t in theta.items()},
        {f"alpha.{key_of(n)}": grads[id(t)] for n, t in alpha.items()},
    )


def learner_for(network):
    torch.manual_seed(5)
    made = network()
    learned = {n for n, p in made.named_parameters() if p.requires_grad}
    return config_of(made, PerParameter(0.05), 2, loss=F.mse_loss, adapted=learned)


@pytest.mark.parametrize("network", BY_HAND)
def test_the_meta_gradient_is_that_of_one_graph_under_every_engine(network, monkeypatch):
    monkeypatch.setattr(engines, "CPU_THREADS", 2)
    tasks = curves_of(3, 4, 5)
    config = learner_for(network)
    before = {n: t.clone() for n, t in config.network.state_dict().items()}
    theta, phi = expected_gradient(config, tasks, 2)
    for name, engine in {"loop": Loop, "threads": Threads, "vmap": Vmap, "auto": Vmap}.items():
        runs = FullUnroll(config.network, name, recompute="auto")
        runs.setup(config.network, CPU, 1)
        said = runs.adjust(config, tasks, first_order=False)
        able = engine.__name__.lower() != UNABLE.get(network)
        assert (said is None) == able, said
        assert type(runs.engine) is (engine if able else Loop)
        if not able:
            unable = engine.__name__.lower()
            assert said.startswith(f"engine: loop in place of {unable}, which cannot run {network.__name__} (")
            runs.setup(config.network, CPU, 1)
            assert type(runs.engine) is Loop  # also where a run sets up again
        found = runs.meta_gradient(config, tasks, 2, False)
        assert largest_difference(found.theta, theta) < EXACT
        assert largest_difference(found.phi, phi) < EXACT
        evaluated = runs.evaluate(config, tasks, 2, [0, 2])
        torch.testing.assert_close(evaluated.query_losses[:, 1], found.query_losses, rtol=0, atol=1e-9)
    after = config.network.state_dict()
    assert all(torch.equal(t, after[n]) for n, t in before.items())


def test_attention_in_evaluation_mode_is_the_same_as_in_training():
    config, tasks = learner_for(Encoder), curves_of(3, 4, 5)
    runs = FullUnroll(config.network, "vmap", recompute=False)
    training = runs.evaluate(config, tasks, 2, [2]).outputs
    config.network.eval()
    torch.testing.assert_close(runs.evaluate(config, tasks, 2, [2]).outputs, training, rtol=0, atol=0)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * g


class OnlyOnce(Sequences):
    def read(self, h):
        return Doubled.apply(h.tanh()).mean(1)


class Bagged(Sequences):
    """The largest of each sequence, by an operation that torch differentiates once."""

    def read(self, h):
        rows = torch.arange(h.shape[0] * h.shape[1]).reshape(h.shape[:2])
        return F.embedding_bag(rows, h.flatten(0, 1), mode="max")


class Detached(Sequences):
    def forward(self, x):
        return super().forward(x).detach()

    def read(self, h):
        return h.mean(1)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Bagged, "Bagged has an operation without a second derivative, .*set first_order to true"),
        (OnlyOnce, "OnlyOnce has an operation whose second derivative.*set first_order to true"),
        (Detached, "Detached cannot be adapted"),
    ],
)
def test_what_no_engine_can_is_refused_in_one_message(network, said):
    config = config_of(network(), PerParameter(0.05), 2, loss=F.mse_loss)
    with pytest.raises(UserError, match=said) as it:
        FullUnroll(config.network, "auto", recompute=False).adjust(config, curves_of(2, 4, 5), first_order=False)
    assert len(it.value.problems) == 1


def test_what_has_no_second_derivative_trains_to_first_order():
    config = config_of(OnlyOnce(), PerParameter(0.05), 2, loss=F.mse_loss)
    runs = FullUnroll(config.network, "loop", recompute=False)
    assert runs.adjust(config, curves_of(2, 4, 5), first_order=True) is None


class Shared(Sequences):
    """Has a layer that is used for what the tasks have in common, and a mean that others may change."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4, dtype=torch.float64))
        self.factor = 1.0

    def read(self, h):
        return ((h - self.mean) * self.factor).tanh().mean(1)


def test_threads_see_what_was_changed_between_two_outer_steps():
    config, tasks = learner_for(Shared), curves_of(3, 4, 5)
    engines_of = {name: FullUnroll(config.network, name, recompute=False) for name in ("loop", "threads")}
    seen = []
    network = config.network
    for change in (lambda: None, lambda: network.mean.add_(0.5), lambda: setattr(network, "factor", 2.0)):
        change()
        loop, threads = (runs.meta_gradient(config, tasks, 2, False) for runs in engines_of.values())
        assert largest_difference(loop.theta, threads.theta) < 1e-12
        seen.append(loop.query_losses)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    config.network.register_buffer("mean", torch.full((4,), -1.0, dtype=torch.float64))  # another tensor in its place
    loop, threads = (runs.meta_gradient(config, tasks, 2, False) for runs in engines_of.values())
    assert largest_difference(loop.theta, threads.theta) < 1e-12


def test_dropout_switched_off_gives_the_gradient_without_it():
    class Dropping(Sequences):
        def read(self, h):
            return F.dropout(h, 0.5, self.training).tanh().mean(1)

    class Plain(Sequences):
        def read(self, h):
            return h.tanh().mean(1)

    tasks = curves_of(3, 4, 5)
    dropping, plain = learner_for(Dropping), learner_for(Plain)
    with undisturbed(dropping.network, CPU):
        silenced = changing_modules(dropping.network, tasks.support_x[0])
    expected = FullUnroll(plain.network, "loop", recompute=False).meta_gradient(plain, tasks, 2, False)
    for engine in ("loop", "threads", "vmap"):
        with without_chance(dropping.network, silenced.names):
            found = FullUnroll(dropping.network, engine, recompute=True).meta_gradient(dropping, tasks, 2, False)
        assert largest_difference(found.theta, expected.theta) < 1e-12


@pytest.mark.parametrize("name", ["a.b", "keys", "training", "_parameters", "a/b.c", "a~b", "x~1y.z", "~0", "type"])
def test_names_of_parameters_are_found_again(name):
    params = nn.ParameterDict({key_of(name): torch.ones(1), key_of("weight"): torch.zeros(1)})
    assert name_of(key_of(name)) == name
    assert params[key_of(name)].item() == 1
    assert set(params) == {key_of(name), "weight"}


def test_rates_of_layers_keep_their_names_in_checkpoints():
    assert key_of("body.0.1.weight") == "body/0/1/weight"


@pytest.mark.parametrize("rule", [PerParameter(0.05), PerParameterMomentum(0.05)])
def test_rules_of_oddly_named_parameters_can_be_saved_and_loaded(rule):
    params = {n: p for n, p in Named().named_parameters() if n != "inp.weight"}
    rule.bind(params, 1)
    other = type(rule)(0.5)
    other.bind(params, 1)
    other.load_state_dict(rule.state_dict())
    assert set(other.learned_rates()) == set(params)
    assert all(torch.equal(rate, rule.learned_rates()[n]) for n, rate in other.learned_rates().items())


class BodyAlone(UpdateRule):
    """Leaves the head where it is."""

    reads_loss = False

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, step, params, grads, loss, state):
        return {n: p if n.startswith("head") else p - self.rate * grads[n] for n, p in params.items()}, {}


@pytest.mark.parametrize("steps", [1, 2])
def test_a_rule_may_leave_a_class_agnostic_head_where_it_is(steps):
    """In closed form as by autograd."""
    torch.manual_seed(0)
    network = nn.Sequential()
    network.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    network.head = ClassAgnosticHead(4)
    config = config_of(network, BodyAlone(), steps)
    tasks = tasks_of(3, 3, 2, 2, (3,))
    found = {}
    assert config.feed_forward is not None
    for closed in (True, False):
        own = replace(config, closed_form=closed)
        found[closed] = FullUnroll(network, "loop", recompute=False).meta_gradient(own, tasks, steps, False)
    assert largest_difference(found[True].theta, found[False].theta) < 1e-10
    assert largest_difference(found[True].phi, found[False].phi) < 1e-10


def long_runs_of(network):
    config = config_of(network, Scalar(0.05), 4, loss=F.mse_loss)
    return TruncatedUnroll(2), config, curves_of(2, 4, 5)


def test_long_runs_of_what_cannot_be_stacked_go_one_after_the_other():
    class Stackable(GruByHand):
        pass

    torch.manual_seed(0)
    runs, config, tasks = long_runs_of(Gru())
    said = runs.adjust(config, tasks, first_order=False)
    assert said.startswith("long inner runs one after the other, as Gru cannot be stacked (")
    torch.manual_seed(0)
    by_hand, other, _ = long_runs_of(Stackable())
    assert by_hand.adjust(other, tasks, first_order=False) is None
    for _ in range(2):  # the second continues where the first ended
        found, expected = runs.meta_gradient(config, tasks, 2, False), by_hand.meta_gradient(other, tasks, 2, False)
        assert largest_difference(found.phi, expected.phi) < EXACT
        torch.testing.assert_close(found.outputs, expected.outputs, rtol=0, atol=EXACT)


def test_long_runs_leave_frozen_layers_as_they_are():
    network = MLP(1, [4], 1).double()
    network.body[1].requires_grad_(False)
    weight = network.body[1].weight.clone()
    adapted = {"head.weight", "head.bias"}
    config = config_of(network, Scalar(0.05), 4, loss=F.mse_loss, adapted=adapted)
    weight = network.body[1].weight.clone()
    runs = TruncatedUnroll(2)
    first = runs.meta_gradient(config, curves_of(2, 4, 5), 2, False).outputs
    assert set(runs.runs[0].params) == adapted
    assert torch.equal(network.body[1].weight, weight)
    with torch.no_grad():
        network.body[1].weight.mul_(2)
    assert not torch.allclose(TruncatedUnroll(2).meta_gradient(config, curves_of(2, 4, 5), 2, False).outputs, first)


class Spare(Sequences):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(2, 2)

    def read(self, h):
        return h.mean(1)


@pytest.mark.parametrize("segments", [1, 2])
def test_parameters_that_nothing_depends_on_are_named_together_and_stay(segments, caplog):
    torch.manual_seed(0)
    model = MetaModel(Spare(), Scalar(0.05), inner_steps=2, segments=segments, loss="mse").double()
    tasks = curves_of(2, 4, 5)
    with caplog.at_level("INFO", logger="metasgd"):
        found = model.meta_gradient(tasks)
    said = [r.message for r in caplog.records if "no gradient reaches" in r.message]
    assert len(said) == 1
    assert said[0].startswith("no gradient reaches spare.weight, spare.bias: the loss of the first")
    assert all(t.isfinite().all() for t in found.phi.values())
    assert not any(t.any() for n, t in found.theta.items() if n.startswith("spare"))
