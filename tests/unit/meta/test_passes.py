"""Several outer updates on the same trajectories, against the objective of ProMP written out in one graph."""

import pytest
import torch
from torch.func import functional_call

from metasgd.errors import UserError
from metasgd.meta.model import MetaModel
from metasgd.meta.passes import meta_gradients, recorded
from metasgd.rl import GaussianPolicy, Navigation, PolicyGradient, Trials
from metasgd.rl.advantages import advantages
from metasgd.rl.rollout import rollout
from metasgd.rules import PerParameter

TASKS = Trials.draw(seed=1, split="train", indices=[5, 6], trajectories=3)
ENVIRONMENT = Navigation(horizon=4)
CLIP = 0.01


def model(passes, engine="vmap", inner_steps=2, **settings):
    torch.manual_seed(0)
    loss = PolicyGradient(ENVIRONMENT, passes=passes, clip=CLIP)
    policy, rule = GaussianPolicy(hidden=[8]).double(), PerParameter(0.3).double()
    return MetaModel(policy, rule, loss=loss, engine=engine, inner_steps=inner_steps, **settings).double()


def moved(own, gradient, lr):
    """Take one outer step of gradient descent."""
    with torch.no_grad():
        for p, found in zip(learned(own), every(gradient), strict=True):
            p -= lr * found


def learned(own):
    return [*own.network.parameters(), *own.update_rule.parameters()]


def every(gradient):
    return [*gradient.theta.values(), *gradient.phi.values()]


def test_with_one_pass_it_is_the_gradient_of_reinforce_and_so_is_the_first_of_several():
    found = [list(meta_gradients(model(passes), TASKS)) for passes in (1, 2)]
    assert [len(gradients) for gradients in found] == [1, 2]
    right = model(1).meta_gradient(TASKS)
    assert all(torch.equal(a, b) for a, b in zip(every(found[0][0]), every(right), strict=True))
    for a, b in zip(every(found[1][0]), every(right), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found[1][0].query_losses, right.query_losses)


def by_hand(own, made_by, inner_steps):
    """The losses of ``own`` on trajectories of the policy ``made_by`` and of what it adapted to, in one graph."""

    def log_p(params, made):
        outputs = functional_call(own.network, params, (made.observations,))
        mean, log_std = outputs.chunk(2, dim=-1)
        return torch.distributions.Normal(mean, log_std.exp()).log_prob(made.actions).sum(dim=-1)

    def trajectories(params, b, seed):
        return rollout(
            ENVIRONMENT, lambda o: functional_call(own.network, params, (o.double(),)), TASKS.support_y[b, 0], seed
        )

    def inner(params, rule, made):
        a = advantages(made, 0.99, True, True)
        loss = -((log_p(params, made) - made.log_probs).exp() * a).sum(dim=-1).mean()
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        return {n: p - rule[n] * g for (n, p), g in zip(params.items(), grads, strict=True)}

    losses = []
    for b in range(TASKS.n_tasks):
        old, old_rule = ({n: p.detach().requires_grad_() for n, p in part.items()} for part in made_by)
        new = dict(own.network.named_parameters())
        rates = {n: own.update_rule.get_parameter("alpha." + n.replace(".", "/")) for n in new}
        for s in range(inner_steps):
            made = trajectories(old, b, TASKS.support_x[b] + s)
            old, new = inner(old, old_rule, made), inner(new, rates, made)
        made = trajectories(old, b, TASKS.query_x[b])
        w, a = (log_p(new, made) - made.log_probs).exp(), advantages(made, 0.99, True, True)
        clipped = torch.where(a > 0, w.clamp(max=1 + CLIP), w.clamp(min=1 - CLIP)) * a - a
        losses.append(-(made.rewards.sum(dim=-1).mean() + clipped.sum(dim=-1).mean()))
        beyond = (a > 0) & (w > 1 + CLIP) | (a < 0) & (w < 1 - CLIP)
    return torch.stack(losses), beyond


@pytest.mark.parametrize(("engine", "inner_steps"), [("vmap", 2), ("loop", 1), ("vmap", 0)])
def test_later_passes_see_how_far_the_policies_have_moved(engine, inner_steps):
    own = model(3, engine, inner_steps)
    names = dict(own.network.named_parameters())
    rates = {n: own.update_rule.get_parameter("alpha." + n.replace(".", "/")).clone() for n in names}
    made_by = {n: p.clone() for n, p in names.items()}, rates
    for n, gradient in enumerate(meta_gradients(own, TASKS)):
        losses, beyond = by_hand(own, made_by, inner_steps)
        torch.testing.assert_close(gradient.query_losses, losses.detach(), rtol=1e-10, atol=1e-12)
        exact = torch.autograd.grad(losses.sum(), learned(own), allow_unused=not inner_steps)
        for found, right in zip(every(gradient), exact, strict=True):
            torch.testing.assert_close(
                found, torch.zeros_like(found) if right is None else right, rtol=1e-8, atol=1e-11
            )
        assert bool(beyond.any()) == (n > 0)  # of some actions the ratio counts no more
        moved(own, gradient, 0.02)


def test_what_is_recorded_are_the_trajectories_of_each_step():
    own = model(2)
    made = recorded(own.config, own.config.theta, TASKS, 2)
    assert made.support_x.shape == (2, 3, 2, 4, 2)
    assert made.query_x.shape == (2, 3, 1, 4, 2)
    first = rollout(ENVIRONMENT, lambda o: own.network(o.double()), TASKS.support_y[:, 0], TASKS.support_x)
    torch.testing.assert_close(made.support_x[:, :, 0], first.observations, rtol=1e-12, atol=1e-12)
    assert not torch.equal(made.support_y[:, :, 0], made.support_y[:, :, 1])


def test_what_passes_do_not_go_with_is_refused():
    for made, said in [
        (lambda: PolicyGradient(ENVIRONMENT, passes=0), "passes is 0"),
        (lambda: PolicyGradient(ENVIRONMENT, clip=1.0), "clip is 1.0: a number above 0 and below 1"),
        (lambda: model(2, estimator="reptile"), "estimator is reptile, but passes is 2: use unrolled, or 1"),
    ]:
        with pytest.raises(UserError, match=said):
            made()
