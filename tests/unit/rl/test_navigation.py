import math

import pytest
import torch

from metasgd.errors import UserError
from metasgd.rl.navigation import Navigation
from metasgd.rl.rollout import rollout

TASK, SEEDS = torch.tensor([3, 4]), torch.arange(6).reshape(2, 3)


def to_a_corner(observed):
    """A policy that all but always goes to the upper right, as fast as it can."""
    sure = torch.tensor([2.0, 2.0, -20.0, -20.0])
    return sure.expand(*observed.shape[:-1], 4)


def wandering(observed):
    return torch.zeros(*observed.shape[:-1], 4)


@pytest.mark.parametrize("reward", ["squared_distance", "distance"])
def test_it_moves_and_rewards_as_the_equations_say(reward):
    environment = Navigation(reward=reward, horizon=4)
    made = rollout(environment, to_a_corner, TASK, SEEDS)
    goals = environment.start(TASK, SEEDS)[0].goal
    for b, k, t in [(0, 0, 0), (0, 2, 3), (1, 1, 2)]:
        here = [0.1 * t, 0.1 * t]
        assert made.observations[b, k, t].tolist() == pytest.approx(here, abs=1e-6)
        apart = math.dist([p + 0.1 for p in here], goals[b, 0].tolist())
        assert made.rewards[b, k, t].item() == pytest.approx(-(apart**2) if reward == "squared_distance" else -apart)


def test_velocities_are_cut_off():
    made = rollout(Navigation(horizon=30), wandering, TASK, SEEDS)
    moved = made.observations.diff(dim=-2).abs()
    assert made.actions.abs().max() > 1.5
    assert moved.max().item() == pytest.approx(0.1, abs=1e-6)


def test_an_episode_ends_near_the_goal_and_no_step_counts_after_it():
    environment = Navigation(horizon=12)
    goal = environment.start(TASK[:1], SEEDS[:1])[0].goal.squeeze()

    def straight(observed):
        way = (goal - observed).clamp(-0.1, 0.1) / 0.1
        return torch.cat([way, torch.full_like(way, -20.0)], dim=-1)

    made = rollout(environment, straight, TASK[:1], SEEDS[:1])
    steps = math.ceil(goal.abs().max().item() / 0.1)
    assert 1 < steps < 12
    assert made.alive[0, 0].tolist() == [True] * steps + [False] * (12 - steps)
    assert (made.rewards[0, :, steps:] == 0).all()
    assert (made.rewards[0, :, : steps - 1] < -(0.01**2)).all()


def test_goals_are_drawn_from_the_unit_square_and_starts_too_if_asked():
    tasks, seeds = torch.arange(4000), torch.zeros(4000, 1, dtype=torch.int64)
    for start in ("origin", "drawn"):
        places, observed = Navigation(start=start).start(tasks, seeds)
        for drawn in [places.goal, observed][: 1 + (start == "drawn")]:
            assert drawn.abs().max() <= 0.5
            assert drawn.mean(dim=(0, 1)).tolist() == pytest.approx([0, 0], abs=0.02)
            assert drawn.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.02)
    assert not Navigation().start(tasks, seeds)[1].any()
    assert (places.goal - observed).abs().max() > 0.5  # each drawn by itself


def test_a_trajectory_depends_on_its_task_and_its_seed_alone():
    environment = Navigation(start="drawn", horizon=8)
    whole = rollout(environment, wandering, TASK, SEEDS)
    part = rollout(environment, wandering, TASK[1], SEEDS[1, 1:])
    for name, values in vars(part).items():
        assert torch.equal(values, getattr(whole, name)[1, 1:]), name
    other = rollout(environment, wandering, TASK, SEEDS + 100)
    assert (whole.actions != other.actions).all()


def test_thousands_of_episodes_are_one_call():
    made = rollout(Navigation(horizon=3), wandering, torch.arange(2), torch.arange(4000).reshape(2, 2000))
    assert made.actions.shape == (2, 2000, 3, 2)
    assert made.actions.std().item() == pytest.approx(1, rel=0.03)


def test_a_horizon_of_no_step_is_refused():
    with pytest.raises(UserError, match="^horizon is 0: at least 1 is needed$"):
        Navigation(horizon=0)
