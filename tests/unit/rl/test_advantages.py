import numpy as np
import pytest
import torch

from metasgd.rl.advantages import RIDGE, advantages, linear_baseline, returns_to_go
from metasgd.rl.rollout import Trajectories


def trajectories(k=4, h=6, lengths=None, seed=0):
    draw = torch.Generator().manual_seed(seed)
    alive = torch.arange(h) < (torch.full((k, 1), h) if lengths is None else torch.tensor(lengths)[:, None])
    rewards = torch.randn(k, h, generator=draw, dtype=torch.float64)
    observations = torch.randn(k, h, 2, generator=draw, dtype=torch.float64)
    nothing = torch.zeros(k, h)
    return Trajectories(observations, nothing[..., None], nothing, torch.where(alive, rewards, 0.0), alive)


def test_returns_to_go_are_summed_backwards():
    rewards = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 8.0]])
    assert returns_to_go(rewards, 0.5).tolist() == [[3.0, 4.0, 4.0], [2.0, 4.0, 8.0]]
    assert returns_to_go(rewards, 1.0).tolist() == [[7.0, 6.0, 4.0], [8.0, 8.0, 8.0]]


@pytest.mark.parametrize("lengths", [None, [6, 3, 1, 5]])
def test_the_baseline_is_the_ridge_regression_that_numpy_finds(lengths):
    made = trajectories(lengths=lengths)
    returns = returns_to_go(made.rewards, 0.9)
    o, t = made.observations.numpy(), np.tile(np.arange(6) / 100, (4, 1))[..., None]
    features = np.concatenate([o, o**2, t, t**2, t**3, np.ones_like(t)], axis=-1)
    alive = made.alive.numpy()
    rows, wanted = features[alive], returns.numpy()[alive]
    # ridge as rows of its own: min |F w − G|² + λ |w|²
    rows, wanted = np.vstack([rows, RIDGE**0.5 * np.eye(8)]), np.concatenate([wanted, np.zeros(8)])
    weights = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(linear_baseline(made, returns).numpy()[alive], (features @ weights)[alive], atol=1e-6)


def test_each_task_has_a_baseline_of_its_own():
    tasks = [trajectories(seed=seed) for seed in (0, 1)]
    both = Trajectories(*(torch.stack([getattr(t, name) for t in tasks]) for name in vars(tasks[0])))
    for b, own in enumerate(tasks):
        found = advantages(both, 0.9, baseline=True, standardise=True)[b]
        torch.testing.assert_close(found, advantages(own, 0.9, baseline=True, standardise=True))


@pytest.mark.parametrize("baseline", [True, False])
def test_standardised_advantages_have_mean_0_and_deviation_1_over_the_steps_taken(baseline):
    made = trajectories(lengths=[6, 3, 1, 5])
    found = advantages(made, 0.9, baseline, standardise=True)
    assert (found[~made.alive] == 0).all()
    taken = found[made.alive] * 15 / 4  # of means over steps, as sums over an episode
    assert taken.mean().item() == pytest.approx(0, abs=1e-12)
    assert taken.std(correction=0).item() == pytest.approx(1, rel=1e-6)


def test_without_baseline_and_standards_an_advantage_is_the_return_to_go():
    made = trajectories(lengths=[6, 3, 1, 5])
    found = advantages(made, 0.9, baseline=False, standardise=False)
    assert torch.equal(found, torch.where(made.alive, returns_to_go(made.rewards, 0.9), 0.0))


def test_equal_returns_are_no_reason_to_move():
    made = trajectories()
    made = Trajectories(made.observations, made.actions, made.log_probs, torch.zeros_like(made.rewards), made.alive)
    assert advantages(made, 1.0, baseline=True, standardise=True).abs().max() == 0
