"""Against the exact expected return of a problem small enough to be enumerated."""

from itertools import product

import pytest
import torch
from torch.autograd.functional import hessian, jacobian

from metasgd.rl.advantages import returns_to_go
from metasgd.rl.policy import log_probability
from metasgd.rl.surrogates import SURROGATES, dice, lvc, ppo

HORIZON, STATES, ACTIONS = 3, 2, 2
PLANS = torch.tensor(list(product(range(ACTIONS), repeat=HORIZON)))
"""``[8, 3]``, every sequence of actions; action a leads to state a, and the first state is 0."""
SEEN = torch.cat([torch.zeros(len(PLANS), 1, dtype=torch.int64), PLANS[:, :-1]], dim=1)
REWARDS = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)[SEEN, PLANS]
GUESSED = torch.tensor([0.7, -1.3], dtype=torch.float64)[SEEN]
"""A baseline by the state, which is not the right one."""


@pytest.fixture
def theta():
    """Logits of the actions in each state."""
    return torch.randn(STATES, ACTIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def log_probs(theta):
    return theta.log_softmax(dim=-1)[SEEN, PLANS]


def expected_return(theta):
    return (log_probs(theta).sum(dim=1).exp() * REWARDS.sum(dim=1)).sum()


def expected(surrogate, theta, baseline):
    """The mean of a surrogate over all that can happen, each weighing as likely as it is at ``theta``."""
    likely = len(PLANS) * log_probs(theta).sum(dim=1).exp()[:, None]
    advantages = likely * (returns_to_go(REWARDS, 1.0) - baseline)
    return lambda at: surrogate(log_probs(at) - log_probs(theta), advantages)


@pytest.mark.parametrize("baseline", [torch.zeros(()), GUESSED], ids=["none", "guessed"])
@pytest.mark.parametrize("name", SURROGATES)
def test_the_gradient_is_that_of_the_expected_return(theta, name, baseline):
    found = jacobian(expected(SURROGATES[name], theta, baseline), theta)
    torch.testing.assert_close(found, jacobian(expected_return, theta), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("baseline", [torch.zeros(()), GUESSED], ids=["none", "guessed"])
def test_the_second_and_third_derivatives_of_dice_are_those_of_the_expected_return(theta, baseline):
    surrogate = expected(dice, theta, baseline)
    torch.testing.assert_close(hessian(surrogate, theta), hessian(expected_return, theta), rtol=1e-12, atol=1e-12)

    def of_third(function):
        return jacobian(lambda at: _second(function, at), theta)

    torch.testing.assert_close(of_third(surrogate), of_third(expected_return), rtol=1e-11, atol=1e-11)


def _second(function, at):
    (first,) = torch.autograd.grad(function(at), at, create_graph=True)
    rows = [torch.autograd.grad(one, at, create_graph=True)[0].flatten() for one in first.flatten()]
    return torch.stack(rows)


def test_lvc_leaves_out_the_products_of_different_steps(theta):
    """``E[Σ_{t' < t} (∇log π_{t'} ∇log π_tᵀ + ∇log π_t ∇log π_{t'}ᵀ) A_t]`` and nothing else."""
    grads = jacobian(log_probs, theta).flatten(2)  # [plans, steps, parameters]
    before = grads.cumsum(dim=1) - grads
    weighted = log_probs(theta).sum(dim=1).exp()[:, None] * (returns_to_go(REWARDS, 1.0) - GUESSED)
    products = torch.einsum("kt,kti,ktj->ij", weighted, before, grads)
    whole, part = (hessian(expected(s, theta, GUESSED), theta).reshape(4, 4) for s in (dice, lvc))
    assert products.abs().max() > 0.01
    torch.testing.assert_close(whole - part, products + products.T, rtol=1e-12, atol=1e-12)


def test_where_there_is_one_step_lvc_leaves_out_nothing(theta):
    value = torch.tensor([2.0, -1.0], dtype=torch.float64)

    def exact(at):
        return (at[0].softmax(dim=-1) * value).sum()

    likely = 2 * theta[0].softmax(dim=-1)

    def estimated(at):
        return lvc((at[0].log_softmax(dim=-1) - theta[0].log_softmax(dim=-1))[:, None], (likely * value)[:, None])

    torch.testing.assert_close(hessian(estimated, theta), hessian(exact, theta), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SURROGATES)
def test_where_the_policy_is_the_one_that_acted_a_surrogate_is_0(theta, name):
    assert expected(SURROGATES[name], theta, GUESSED)(theta).item() == 0


def test_the_log_probabilities_are_those_of_torch():
    outputs, action = torch.randn(3, 4), torch.randn(3, 2)
    mean, log_std = outputs.chunk(2, dim=-1)
    theirs = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
    torch.testing.assert_close(log_probability(outputs, action), theirs.log_prob(action))


def test_ppo_stops_where_a_ratio_has_moved_as_far_as_it_may():
    """min(w A, clip(w, 0.8, 1.2) A) − A, by hand: 1.1 and 0.5 count as they are for A = 2, 1.5 as 1.2; and so on."""
    w = torch.tensor([[1.1, 1.5, 0.5], [1.1, 1.5, 0.5]], dtype=torch.float64)
    a = torch.tensor([[2.0], [-3.0]], dtype=torch.float64).expand(2, 3)
    log_w = w.log().requires_grad_()
    found = ppo(log_w, a, 0.2)
    assert found.item() == pytest.approx(((0.2 + 0.4 - 1.0) + (-0.3 - 1.5 + 0.6)) / 2, rel=1e-12)
    (grad,) = torch.autograd.grad(found, log_w)
    right = [[1.1 * 2 / 2, 0.0, 0.5 * 2 / 2], [-3 * 1.1 / 2, -3 * 1.5 / 2, 0.0]]
    torch.testing.assert_close(grad, torch.tensor(right, dtype=torch.float64))
