import copy

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, largest_difference, tasks_of
from support.every_engine import validate_exact
from torch import nn

from metasgd.errors import UserError
from metasgd.meta.meta_gradient import inner_loop_of
from metasgd.nn.networks import MLP, Conv4
from metasgd.rules.adaptive_rates import InnerAdaGrad, InnerAdam, InnerRMSProp
from metasgd.rules.base import key_of

RULES = {
    "adam": lambda eps=1e-3: InnerAdam(0.05, beta1=0.6, beta2=0.8, eps=eps),
    "rmsprop": lambda eps=1e-3: InnerRMSProp(0.05, decay=0.7, eps=eps),
    "adagrad": lambda eps=1e-3: InnerAdaGrad(0.05, eps=eps),
}


def sigma(x):
    return 1 / (1 + torch.exp(-x))


def by_equation(rule):
    """``step`` of ``by_hand.unrolled``, as the papers have it."""
    phi = dict(rule.named_parameters())

    def of(part, n):
        return phi[f"{part}.{key_of(n)}"]

    def step(s, p, g, loss, m):
        a = {n: m["a." + n] if m else torch.zeros_like(t) for n, t in p.items()}
        v = {n: m["v." + n] if m else torch.zeros_like(t) for n, t in p.items()}
        moved = {}
        for n in p:
            if isinstance(rule, InnerAdam):
                b1, b2 = sigma(of("rho1", n)), sigma(of("rho2", n))
                a[n] = b1 * a[n] + (1 - b1) * g[n]
                v[n] = b2 * v[n] + (1 - b2) * g[n] ** 2
                up, down = a[n] / (1 - b1 ** (s + 1)), v[n] / (1 - b2 ** (s + 1))
            else:
                d = sigma(of("rho", n)) if isinstance(rule, InnerRMSProp) else None
                v[n] = v[n] + g[n] ** 2 if d is None else d * v[n] + (1 - d) * g[n] ** 2
                up, down = g[n], v[n]
            moved[n] = p[n] - of("eta", n) * up / (down + rule.eps**2) ** 0.5
        return moved, {**{"a." + n: t for n, t in a.items()}, **{"v." + n: t for n, t in v.items()}}

    return step


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_steps", [2, 3])
@pytest.mark.parametrize("name", RULES)
def test_every_engine_as_the_equation_unrolled_by_hand(name, inner_steps, first_order):
    rule = RULES[name]()
    config = config_of(MLP(1, [6], 1), rule, inner_steps, loss=F.mse_loss)
    phi = validate_exact(config, curves_of(3, 5, 6), inner_steps, by_equation(rule), first_order)
    assert all(g.abs().max() > 0 for g in phi.values())


@pytest.mark.parametrize("name", RULES)
def test_conv4_as_unrolled_by_hand(name):
    rule = RULES[name]()
    config = config_of(Conv4(n_way=3, head="class_agnostic", width=4, image_size=12), rule, 2)
    validate_exact(config, tasks_of(2, 3, 1, 2, (1, 12, 12)), 2, by_equation(rule))


@pytest.mark.parametrize("name", RULES)
def test_gradients_of_zero_are_differentiated_through(name):
    rule = RULES[name]()
    config = config_of(MLP(1, [6], 1), rule, 2, loss=F.mse_loss)
    with torch.no_grad():
        config.theta["body.1.bias"][:2] = -100.0  # units that no example reaches
    tasks = curves_of(2, 5, 6)
    loop = inner_loop_of(config, config.theta, tasks)
    _, grads, _ = loop.support(loop.start, keep=False)
    assert not grads["body.1.weight"][:, :2].any()
    assert not grads["head.weight"][..., :2].any()
    phi = validate_exact(config, tasks, 2, by_equation(rule))
    assert all(g.isfinite().all() for g in phi.values())


@pytest.mark.parametrize("name", RULES)
def test_first_and_second_derivatives_at_a_gradient_of_zero(name):
    """Against finite differences, of the gradient and of what the step before has left."""
    rule = RULES[name](eps=0.3)
    config_of(nn.Linear(3, 1, bias=False), rule, 2)
    g = torch.tensor([[0.0, 0.5, -0.2]], dtype=torch.float64, requires_grad=True)
    eta = rule.eta["weight"]

    def two_steps(g, eta):
        theta = {"weight": torch.zeros_like(g)}
        state = rule.init_state(theta)
        for s in range(2):
            theta, state = rule(s, theta, {"weight": eta * (s + 1) * g}, g.sum(), state)
        return theta["weight"]

    assert torch.autograd.gradcheck(two_steps, (g, eta))
    assert torch.autograd.gradgradcheck(two_steps, (g, eta))


OF_TORCH = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.6, 0.8), eps=0.0),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.02, alpha=0.7, eps=0.0),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.02, eps=0.0),
}


@pytest.mark.parametrize("name", RULES)
def test_trajectory_of_torch_where_epsilon_is_of_no_account(name):
    """Torch adds it to the root, which is another formula unless both are zero."""
    rule = RULES[name](eps=1e-12)
    network = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    config = config_of(network, rule, 6, loss=F.mse_loss)
    fresh = RULES[name]()
    fresh.bind(config.theta, 6)
    rule.load_state_dict(fresh.state_dict())  # without the noise that ``config_of`` adds
    with torch.no_grad():
        for eta in rule.eta.values():
            eta.fill_(0.02)
    task = curves_of(1, 5, 6)
    steps, final, _ = inner_loop_of(config, dict(network.named_parameters()), task).adapt(6)
    theirs = copy.deepcopy(network)
    optimizer = OF_TORCH[name](theirs.parameters())
    for expected in [*[step.params for step in steps[1:]], final]:
        optimizer.zero_grad()
        F.mse_loss(theirs(task.support_x[0]), task.support_y[0]).backward()
        optimizer.step()
        assert largest_difference(dict(theirs.named_parameters()), expected) < 1e-12


@pytest.mark.parametrize("name", RULES)
def test_tasks_at_steps_of_their_own_step_as_each_alone(name):
    rule = RULES[name]()
    network = MLP(1, [4], 1)
    config_of(network, rule, 3)
    params = {n: torch.stack([p.detach(), 2 * p.detach()]) for n, p in network.named_parameters()}
    grads = {n: p.sin() for n, p in params.items()}
    state = {k: t + 0.25 for k, t in rule.init_state(params).items()}
    moved, after = rule(torch.tensor([0, 4]), params, grads, torch.zeros(2, dtype=torch.float64), state)
    for b, s in enumerate((0, 4)):
        own = ({n: t[b] for n, t in part.items()} for part in (params, grads))
        alone, left = rule(s, *own, torch.zeros((), dtype=torch.float64), {k: t[b] for k, t in state.items()})
        torch.testing.assert_close({n: t[b] for n, t in moved.items()}, alone, rtol=0, atol=1e-14)
        torch.testing.assert_close({n: t[b] for n, t in after.items()}, left, rtol=0, atol=1e-14)


def test_a_decay_close_to_one_keeps_its_digits():
    rule = InnerAdam(0.1)
    rule.bind({"w": torch.zeros(())}, 1)
    with torch.no_grad():
        rule.rho1["w"].fill_(30.0)
        rule.rho2["w"].fill_(30.0)  # σ is 1 in float32
    theta = {"w": torch.zeros(())}
    moved, _ = rule(0, theta, {"w": torch.tensor(0.5)}, torch.zeros(()), rule.init_state(theta))
    assert moved["w"].item() == pytest.approx(-0.1, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: InnerAdam(beta1=1.0), "beta1 is 1.0"),
        (lambda: InnerAdam(beta2=0.0), "beta2 is 0.0"),
        (lambda: InnerRMSProp(decay=1.5), "decay is 1.5"),
        (lambda: InnerAdaGrad(eps=0.0), "eps is 0.0: a number above 1e-15"),
        (lambda: InnerAdam(0.1, bounds=(0.2, 0.3)), "bounds is"),
    ],
)
def test_unusable_options_are_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()
