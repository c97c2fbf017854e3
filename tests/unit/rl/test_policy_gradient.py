import pytest
import torch
from torch import nn

from metasgd.errors import UserError
from metasgd.meta.meta_gradient import inner_loop_of
from metasgd.meta.model import MetaModel
from metasgd.nn import MLP
from metasgd.rl import GaussianPolicy, Navigation, PolicyGradient, Trials
from metasgd.rl.environment import Environment
from metasgd.rl.rollout import rollout
from metasgd.rules import OptimizerNetwork, PerParameter, Scalar


class Walk(Environment):
    """``p_{t+1} = p_t + a_t``, reward ``−(p_{t+1} − 0.3)²``: the expected return of normal steps is known."""

    observations, actions, horizon = 1, 1, 3
    low, high = -torch.ones(1), torch.ones(1)

    def start(self, task, seed):
        place = torch.zeros(*seed.shape, 1)
        return place, place

    def step(self, state, action):
        place = state + action
        return place, place, -(place - 0.3).square().sum(dim=-1), torch.zeros(place.shape[:-1], dtype=torch.bool)


class Constant(nn.Module):
    """The same distribution wherever it is; so narrow that no action is cut off."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([0.3], dtype=torch.float64))
        self.log_std = nn.Parameter(torch.tensor([-2.0], dtype=torch.float64))

    def forward(self, x):
        return torch.cat([self.mean, self.log_std]).expand(*x.shape[:-1], 2)


def expected_return(mean, log_std):
    """``−Σ_t (t μ − 0.3)² + t σ²``."""
    return -sum((t * mean - 0.3) ** 2 + t * (2 * log_std).exp() for t in (1, 2, 3)).sum()


@pytest.mark.parametrize("baseline", [False, True])
def test_the_gradient_agrees_with_the_analytic_one_within_its_sampling_error(baseline):
    policy = Constant()
    objective = PolicyGradient(Walk(), discount=1.0, baseline=baseline, standardise=False)
    model = MetaModel(policy, Scalar(0.1).double(), loss=objective, inner_steps=1)
    tasks = Trials.draw(seed=0, split="train", indices=range(50), trajectories=400)
    loop = inner_loop(model, tasks)
    losses, grads, _ = loop.support(loop.start, keep=False)
    exact = torch.autograd.grad(-expected_return(policy.mean, policy.log_std), [policy.mean, policy.log_std])
    for found, right in [(grads["mean"], exact[0]), (grads["log_std"], exact[1])]:
        error = found.std() / len(found) ** 0.5
        assert right.abs().item() > 10 * error
        assert abs(found.mean() - right.item()).item() < 4 * error
    error = losses.std() / len(losses) ** 0.5
    assert abs(losses.mean() + expected_return(policy.mean, policy.log_std)).item() < 4 * error


def inner_loop(model, tasks):
    return inner_loop_of(model.config, model.config.theta, tasks)


RULES = {
    "Meta-SGD": lambda: PerParameter(0.05),
    "one that reads the return": lambda: OptimizerNetwork(0.05, 0.5, inputs=["loss"]),
}


def by_hand(model, tasks, b, inner_steps):
    """Task b unrolled in one graph: DiCE with its magic box, on trajectories of the policy as it is at each step."""
    objective, rule = model.objective, model.update_rule
    params = dict(model.network.named_parameters())
    state = rule.init_state(params)

    def value(params, seed):
        def policy(x):
            return torch.func.functional_call(model.network, params, (x,))

        made = rollout(objective.environment, lambda o: policy(o.double()), tasks.support_y[b, 0], seed)
        mean, log_std = policy(made.observations).chunk(2, dim=-1)
        log_p = torch.distributions.Normal(mean, log_std.exp()).log_prob(made.actions).sum(dim=-1)
        box = (log_p.cumsum(dim=-1) - log_p.cumsum(dim=-1).detach()).exp()
        return -(box * made.rewards).sum(dim=-1).mean()

    for s in range(inner_steps):
        loss = value(params, tasks.support_x[b] + s)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params, state = rule(s, params, dict(zip(params, grads, strict=True)), loss, state)
    return value(params, tasks.query_x[b])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("engine", "recompute"), [("vmap", False), ("loop", True)])
def test_the_meta_gradient_is_that_of_the_inner_loop_unrolled_by_hand(rule, engine, recompute):
    torch.manual_seed(0)
    policy, update_rule = GaussianPolicy(hidden=[16]).double(), RULES[rule]().double()
    objective = PolicyGradient(Navigation(horizon=4), "dice", discount=1.0, baseline=False, standardise=False)
    model = MetaModel(policy, update_rule, loss=objective, inner_steps=2, engine=engine, recompute=recompute).double()
    tasks = Trials.draw(seed=1, split="train", indices=[5, 6], trajectories=3)
    found = model.meta_gradient(tasks)
    losses = torch.stack([by_hand(model, tasks, b, 2) for b in range(2)])
    torch.testing.assert_close(found.query_losses, losses.detach(), rtol=1e-10, atol=1e-12)
    learned = dict(policy.named_parameters()) | dict(update_rule.named_parameters())
    exact = torch.autograd.grad(losses.sum(), list(learned.values()))
    for (name, _), right in zip(learned.items(), exact, strict=True):
        torch.testing.assert_close((found.theta | found.phi)[name], right, rtol=1e-8, atol=1e-10)
    reached = {name for name, g in zip(learned, exact, strict=True) if g.any()}
    assert reached > set(dict(policy.named_parameters()))  # and some of the rule's, whose last layer may start at 0


def test_without_an_inner_step_it_is_the_policy_gradient_over_all_tasks():
    model = small(inner_steps=0)
    found = model.meta_gradient(TASKS)
    loop = inner_loop(model, TASKS._replace(support_x=TASKS.query_x, support_y=TASKS.query_y))
    _, grads, _ = loop.support(loop.start, keep=False)
    for name, g in grads.items():
        torch.testing.assert_close(found.theta[name], g.sum(dim=0))


def test_every_step_and_the_query_have_trajectories_of_their_own():
    model = MetaModel(GaussianPolicy(hidden=[4]), Scalar(0.0), loss=PolicyGradient(Navigation(horizon=3)))
    tasks = Trials.draw(seed=0, split="val", indices=[0], trajectories=2)
    loop = inner_loop(model, tasks)
    first, again, second, query = (
        loop.examples(given, loop.start, s)[0]
        for given, s in [(loop.support_set, 0), (loop.support_set, 0), (loop.support_set, 1), (loop.query_set, 0)]
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, query)


def test_the_metric_is_the_mean_return_after_each_number_of_steps():
    torch.manual_seed(0)
    model = MetaModel(GaussianPolicy(hidden=[4]), Scalar(0.1), loss=PolicyGradient(Navigation(horizon=3)))
    tasks = Trials.draw(seed=0, split="test", indices=[0, 1, 2], trajectories=4)
    found = model.evaluate(tasks, after=[0, 2], inner_steps=2)
    made = rollout(Navigation(horizon=3), model.network, tasks.query_y[:, 0], tasks.query_x)
    measured = found.measured(model.objective, tasks)
    torch.testing.assert_close(measured[:, 0], made.rewards.sum(dim=-1).mean(dim=-1))
    assert not torch.equal(measured[:, 0], measured[:, 1])
    assert model.objective.higher_is_better


def small(policy=None, environment=None, **settings):
    loss = PolicyGradient(environment or Navigation(horizon=3))
    return MetaModel(policy or GaussianPolicy(hidden=[4]), Scalar(0.1), loss=loss, **settings)


TASKS = Trials.draw(seed=0, split="train", indices=[0, 1], trajectories=2)


class Broken(Walk):
    def step(self, state, action):
        place, observed, reward, ended = super().step(state, action)
        return place, observed, torch.where(place.squeeze(-1) > -9, reward / 0, reward), ended


def test_what_is_not_for_each_other_is_refused_in_one_message():
    x = torch.zeros(2, 3, 1)
    given = TASKS._replace(support_x=x, support_y=x, query_x=x, query_y=x)
    for made, tasks, said in [
        (
            lambda: small(GaussianPolicy(observations=3)),
            TASKS,
            "does not take the observations of Navigation, 2 values",
        ),
        (lambda: small(MLP(2, [4], 2)), TASKS, "returns values of shape .* a mean and the logarithm"),
        (small, given, "loss is PolicyGradient, but the tasks come with examples. Set source to metasgd.rl.Trials"),
        (
            lambda: small(Constant(), Broken()),
            TASKS,
            "environment is Broken, which gives a reward that is not a finite",
        ),
        (lambda: small(transductive=False), TASKS, "loss is PolicyGradient, .* transductive is False: use 1 and true"),
        (lambda: small(segments=2), TASKS, "loss is PolicyGradient, .* segments is 2"),
        (lambda: PolicyGradient(Navigation(), discount=1.5), TASKS, "discount is 1.5: a number above 0"),
        (lambda: GaussianPolicy(init_std=0.0), TASKS, "init_std 0.0"),
        (lambda: GaussianPolicy(hidden=[0]), TASKS, "hidden is \\[0\\]"),
    ]:
        with pytest.raises(UserError, match=said):
            made().meta_gradient(tasks)


def test_a_policy_that_diverged_is_not_the_environments_fault():
    model = small()
    model.as_inputs(TASKS)
    with torch.no_grad():
        model.network.head.bias.fill_(float("nan"))
    assert model.meta_gradient(TASKS).query_losses.isnan().all()


def test_a_policy_with_few_parameters_in_one_place_adapts_what_is_asked():
    model = small(adapts="head")
    loop = inner_loop(model, TASKS)
    _, grads, _ = loop.support(loop.start, keep=False)
    assert set(grads) == {"head.weight", "head.bias"}
