"""A meta-model as an object: changed, copied, saved, and given what others bring."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metasgd.episode import Episode
from metasgd.errors import UserError
from metasgd.meta.model import MetaModel
from metasgd.nn.networks import Conv4
from metasgd.rules import Fixed, OptimizerNetwork, PerParameter, Scalar, ScaledOptimizerNetwork
from metasgd.rules.base import UpdateRule, key_of


def tasks_of(support_x: Tensor, query_x: Tensor) -> Episode:
    """Three classes of equally many examples in a row."""
    n_tasks, n = support_x.shape[:2]
    y = torch.arange(3).repeat_interleave(n // 3).repeat(n_tasks, 1)
    return Episode(support_x, y, query_x, y, torch.arange(3).repeat(n_tasks, 1), torch.arange(n_tasks))


def numbers(seed: int = 0, dtype: torch.dtype = torch.float64) -> Episode:
    x = torch.randn(2, 12, 4, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return tasks_of(x[:, :6], x[:, 6:])


def model_of(rule: UpdateRule, network: nn.Module | None = None, **options) -> MetaModel:
    torch.manual_seed(0)
    own = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3)).double() if network is None else network
    return MetaModel(own, rule, **options)


def replaced_layer(model: MetaModel) -> None:
    model.network[2] = nn.Linear(8, 3).double()


def assigned(model: MetaModel) -> None:
    longer = {n: 1.5 * t if n.startswith("network.") else t for n, t in model.state_dict().items()}
    model.load_state_dict(longer, assign=True)


@pytest.mark.parametrize("change", [replaced_layer, assigned])
def test_other_parameters_after_its_first_use_are_its_own(change):
    model = model_of(Fixed(0.1))
    model.meta_gradient(numbers())
    change(model)
    fresh = model_of(Fixed(0.1), copy.deepcopy(model.network))
    expected = fresh.meta_gradient(numbers()).query_losses
    torch.testing.assert_close(model.meta_gradient(numbers()).query_losses, expected)


def test_the_callers_examples_stay_as_they_are():
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)).double()
    tasks, expected = numbers(), numbers()
    model_of(Fixed(0.1), network).meta_gradient(tasks)
    assert torch.equal(tasks.support_x, expected.support_x)
    assert torch.equal(tasks.query_x, expected.query_x)


@pytest.mark.parametrize("engine", ["threads", "vmap", "loop"])
def test_one_that_has_been_used_can_be_saved_whole(engine):
    model = MetaModel(Conv4(3, head="linear", width=4, image_size=8).double(), Fixed(0.1), engine=engine)
    x = torch.rand(2, 6, 1, 8, 8, dtype=torch.float64)
    expected = model.meta_gradient(tasks_of(x, x.flip(1))).query_losses
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    torch.testing.assert_close(again.meta_gradient(tasks_of(x, x.flip(1))).query_losses, expected)


class InHalf(nn.Module):
    """Weights in bfloat16, outputs and loss in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.bfloat16()).float()


@pytest.mark.parametrize(
    "rule",
    [
        OptimizerNetwork(),
        OptimizerNetwork(inputs=["loss", "trend"]),
        ScaledOptimizerNetwork(inputs=["loss", "trend", "progress"]),
        PerParameter(),
    ],
)
def test_a_loss_of_another_type_than_the_weights_is_read(rule):
    model = model_of(rule, InHalf(), inner_steps=2)
    assert model.meta_gradient(numbers(dtype=torch.float32)).query_losses.isfinite().all()


class Complex(nn.Module):
    """The absolute values of complex features."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Parameter(0.5 * torch.randn(4, 6, dtype=torch.complex128))
        self.head = nn.Linear(6, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x.to(torch.complex128) @ self.features).abs())


@pytest.mark.parametrize("kind", [PerParameter, Scalar, Fixed])
def test_complex_parameters_by_an_unrolled_computation(kind):
    torch.manual_seed(0)
    network, tasks = Complex(), numbers()
    model = model_of(kind(0.05), network, engine="loop")
    rule, theta = model.update_rule, dict(network.named_parameters())
    if kind is PerParameter:
        with torch.no_grad():
            rule.alpha[key_of("features")] += 0.02j
        rates = {n: rule.alpha[key_of(n)] for n in theta}
    else:
        rates = dict.fromkeys(theta, rule.eta)

    def loss_of(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(network, params, (x,)), y)

    total = torch.zeros((), dtype=torch.float64)
    for i in range(tasks.n_tasks):
        grads = torch.autograd.grad(
            loss_of(theta, tasks.support_x[i], tasks.support_y[i]), [*theta.values()], create_graph=True
        )
        stepped = {n: p - rates[n] * g for (n, p), g in zip(theta.items(), grads, strict=True)}
        total = total + loss_of(stepped, tasks.query_x[i], tasks.query_y[i])
    learned = [*theta.values(), *(p for p in rule.parameters() if p.requires_grad)]
    expected = torch.autograd.grad(total, learned)
    found = model.meta_gradient(tasks)
    of_rule = [found.phi[n] for n, p in rule.named_parameters() if p.requires_grad]
    for ours, theirs in zip([*found.theta.values(), *of_rule], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


class Padded(nn.Module):
    """Reads rows of symbols that end in padding."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(12, 6, padding_idx=0), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).mean(dim=1).tanh())


def test_padding_learns_nothing_in_any_engine():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 9, (2, 12, 1), generator=generator)
    x = torch.randint(1, 12, (2, 12, 8), generator=generator) * (torch.arange(8) < lengths)
    tasks = tasks_of(x[:, :6], x[:, 6:])
    torch.manual_seed(0)
    network, found = Padded().double(), []
    for engine in ("loop", "vmap"):
        model = MetaModel(copy.deepcopy(network), PerParameter(0.1), engine=engine, inner_steps=2)
        found.append(model.meta_gradient(tasks).theta["table.weight"])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)
    of_rates = model.meta_gradient(tasks).phi[f"alpha.{key_of('table.weight')}"]
    assert not of_rates[0].any()  # the row of padding takes no inner step
    assert of_rates[1:].any()


@pytest.mark.parametrize("weights", [[1.0], [0.1, 0.2, 0.3, 0.4]])
def test_weights_of_another_number_of_steps_are_refused(weights):
    model = model_of(Fixed(0.1), inner_steps=3)
    with pytest.raises(UserError, match=f"query_weights has {len(weights)} numbers: one for each of 3 inner steps"):
        model.meta_gradient(numbers(), query_weights=weights)
