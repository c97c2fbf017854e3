"""With Gymnasium's own checker, and environments of a user's."""

import warnings

import numpy as np
import pytest
import torch

from metasgd.errors import UserError

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.spaces import Box, Dict, Discrete  # noqa: E402
from gymnasium.utils.env_checker import check_env  # noqa: E402

from metasgd.meta.model import MetaModel  # noqa: E402
from metasgd.rl import (  # noqa: E402
    GaussianPolicy,
    GymnasiumEnvironment,
    GymnasiumTasks,
    Navigation,
    PolicyGradient,
    Trials,
)
from metasgd.rl.environment import random_numbers  # noqa: E402
from metasgd.rl.rollout import rollout  # noqa: E402
from metasgd.rules import PerParameter  # noqa: E402


class Shell(gymnasium.Env):
    """Navigation, as a user's own environment would have it; or with other spaces."""

    def __init__(self, action_space=None, observation_space=None, nan_at=None, ends=False):
        self.inner = GymnasiumEnvironment(Navigation(horizon=6))
        self.action_space = action_space or self.inner.action_space
        self.observation_space = observation_space or self.inner.observation_space
        self.nan_at, self.ends, self.count, self.length = nan_at, ends, 0, 6

    def reset(self, *, seed=None, options=None):
        self.count, self.length = 0, 1 + (seed or 0) % 6
        return self.inner.reset(seed=seed, options=options)

    def step(self, action):
        assert self.action_space.contains(action)
        assert self.count < self.length or not self.ends, "an episode that had ended was stepped"
        observed, reward, terminated, truncated, about = self.inner.step(action)
        self.count += 1
        reward = float("nan") if self.count == self.nan_at else reward
        return observed, reward, terminated or (self.ends and self.count >= self.length), truncated, about


@pytest.fixture(autouse=True)
def registered():
    spaces = {
        "Plain": {},
        "Discrete": {"action_space": Discrete(3)},
        "Unbounded": {"action_space": Box(-np.inf, np.inf, (2,))},
        "Observing": {"observation_space": Dict({"here": Box(-1, 1, (2,))})},
        "Broken": {"nan_at": 3},
        "Ending": {"ends": True},
    }
    for name, settings in spaces.items():
        gymnasium.register(f"{name}-v0", Shell, max_episode_steps=6, kwargs=settings, disable_env_checker=True)
    gymnasium.register("Endless-v0", Shell, disable_env_checker=True)
    yield
    for name in (*spaces, "Endless"):
        del gymnasium.registry[f"{name}-v0"]


@pytest.mark.parametrize("start", ["origin", "drawn"])
def test_navigation_passes_gymnasiums_own_check(start):
    with warnings.catch_warnings():
        for allowed in ("observation space (?:minimum|maximum) value is", "Not able to test alternative render modes"):
            warnings.filterwarnings("ignore", f".*{allowed}")  # an open plane; made by hand and not by its name
        check_env(GymnasiumEnvironment(Navigation(start=start)), skip_render_check=True)


def test_both_ways_it_is_the_same_environment():
    """A goal is drawn by the task's number, so a policy without chance goes the same way for the same reward."""
    tasks, seeds = torch.tensor([3, 4]), torch.arange(6).reshape(2, 3)

    def sure(observed):
        return torch.tensor([0.7, -0.4, -20.0, -20.0]).expand(*observed.shape[:-1], 4)

    ours, theirs = (rollout(one, sure, tasks, seeds) for one in (Navigation(horizon=6), GymnasiumTasks("Plain-v0")))
    for name, values in vars(ours).items():
        torch.testing.assert_close(getattr(theirs, name), values, rtol=1e-5, atol=1e-5)


def test_a_users_environment_is_meta_trained_like_ours():
    torch.manual_seed(0)
    model = MetaModel(GaussianPolicy(hidden=[4]), PerParameter(0.1), loss=PolicyGradient(GymnasiumTasks("Plain-v0")))
    tasks = Trials.draw(seed=0, split="train", indices=[0, 1], trajectories=3)
    found, again = model.meta_gradient(tasks), model.meta_gradient(tasks)
    assert found.query_losses.shape == (2,)
    assert all(torch.equal(g, again.theta[n]) for n, g in found.theta.items())
    assert any(g.any() for g in found.phi.values())


def test_episodes_may_be_of_different_lengths():
    seeds = torch.arange(6).reshape(1, 6)
    made = rollout(GymnasiumTasks("Ending-v0"), lambda o: torch.zeros(*o.shape[:-1], 4), torch.tensor([1]), seeds)
    assert made.alive[0].sum(dim=-1).tolist() == [1, 2, 3, 4, 5, 6]
    assert (made.rewards[~made.alive] == 0).all()


def test_what_a_gaussian_policy_cannot_do_is_refused_in_one_message():
    for name, said in {
        "Discrete-v0": "whose actions are of the space Discrete",
        "Unbounded-v0": "whose actions have no bounds .* gymnasium.wrappers.RescaleAction",
        "Observing-v0": "whose observations are of the space Dict",
        "Endless-v0": "horizon is null, but Endless-v0 was registered without max_episode_steps",
        "Nowhere-v0": "name is Nowhere-v0, of which Gymnasium makes no environment",
    }.items():
        with pytest.raises(UserError, match=said):
            GymnasiumTasks(name)
    with pytest.raises(UserError, match="horizon is 0"):
        GymnasiumTasks("Plain-v0", horizon=0)


def test_a_reward_that_is_not_a_number_is_refused_with_its_step():
    model = MetaModel(GaussianPolicy(hidden=[4]), PerParameter(0.1), loss=PolicyGradient(GymnasiumTasks("Broken-v0")))
    with pytest.raises(UserError, match="which gives a reward that is not a finite number at step 2 of"):
        model.meta_gradient(Trials.draw(seed=0, split="train", indices=[0, 1], trajectories=2))


def test_random_numbers_are_the_same_whatever_stands_beside_them():
    whole = random_numbers(torch.tensor([[1, 2], [3, 4]]), 5)
    assert torch.equal(whole[1, 0], random_numbers(torch.tensor(3), 5))
