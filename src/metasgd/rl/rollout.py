"""Trajectories of a policy in an environment, all of them side by side."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metasgd.episode import Outputs
from metasgd.errors import UserError, first_line
from metasgd.rl.environment import Environment, random_numbers
from metasgd.rl.policy import log_probability, sample


@dataclass(frozen=True)
class Trajectories:
    """What a policy did and what came of it; steps after the end of an episode are padding.

    Attributes:
        observations: ``[*lead, K, H, O]``, before each action.
        actions: ``[*lead, K, H, A]``, as the policy drew them.
        log_probs: ``[*lead, K, H]``, of these actions under that policy.
        rewards: ``[*lead, K, H]``, 0 after the end.
        alive: ``[*lead, K, H]`` bool, whether the episode had not ended before the action.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    alive: Tensor


@torch.no_grad()
def rollout(environment: Environment, policy: Outputs, task: Tensor, seed: Tensor) -> Trajectories:
    """K trajectories of each task, a function of the policy and of the numbers given, and of nothing else.

    Args:
        environment: of the tasks.
        policy: observations ``[*lead, K, O]`` to means and logarithms of standard deviations ``[*lead, K, 2A]``.
        task: ``[*lead]`` int64, by which the tasks are drawn.
        seed: ``[*lead, K]`` int64, by which the chance in each episode is drawn.

    Raises:
        UserError: the policy is not for this environment, or the environment gives what is not finite.
    """
    noise = random_numbers(seed, environment.horizon, environment.actions, normal=True)
    middle, half = ((environment.high + s * environment.low).to(seed.device) / 2 for s in (1, -1))
    state, observed = environment.start(task, seed)
    noise = noise.to(_checked(environment, policy, observed).dtype)
    alive = torch.ones_like(seed, dtype=torch.bool)
    steps = []
    for t in range(environment.horizon):
        outputs = policy(observed)
        action = sample(outputs, noise[..., t, :])
        state, following, reward, ended = environment.step(state, middle + half * action.clamp(-1, 1))
        steps.append((observed, action, outputs, reward, alive))
        observed, alive = following, alive & ~ended
    *numbers, rewards, lived = zip(*steps, strict=True)
    observations, actions, distributions = (torch.stack(part, dim=-2).to(noise.dtype) for part in numbers)
    alive, reward = torch.stack(lived, dim=-1), torch.stack(rewards, dim=-1).to(noise.dtype)
    log_probs = log_probability(distributions, actions)
    made = Trajectories(observations, actions, log_probs, torch.where(alive, reward, 0.0), alive)
    _validate_finite(environment, made)
    return made


def _checked(environment: Environment, policy: Outputs, observed: Tensor) -> Tensor:
    """The policy's outputs for these observations, once they are known to be for this environment."""
    kind, needed = type(environment).__name__, 2 * environment.actions
    try:
        outputs = policy(observed)
    except (RuntimeError, LookupError, ValueError, TypeError) as error:
        raise UserError(
            f"the network does not take the observations of {kind}, {environment.observations} values each"
            f" ({first_line(error)}). Set its inputs (of a GaussianPolicy, observations) to as many"
        ) from error
    if outputs.shape != (*observed.shape[:-1], needed):
        raise UserError(
            f"the network returns values of shape {tuple(outputs.shape[observed.ndim - 1 :])} for each observation of"
            f" {kind}, which takes {environment.actions} values as an action: {needed} are needed, a mean and the"
            " logarithm of a standard deviation for each. Use metasgd.rl.GaussianPolicy with as many actions"
        )
    return outputs


def _validate_finite(environment: Environment, made: Trajectories) -> None:
    """Refuse what is not finite after finite actions: after others, the policy is to blame, which diverged."""
    acted = made.actions.isfinite().all(dim=-1).cummin(dim=-1).values & made.alive
    for name, values in (("reward", made.rewards), ("observation", made.observations.sum(dim=-1))):
        if bool((acted & ~values.isfinite()).any()):
            at = int((acted & ~values.isfinite()).flatten(0, -2).any(dim=0).nonzero()[0])
            raise UserError(
                f"environment is {type(environment).__name__}, which gives a {name} that is not a finite number at step"
                f" {at} of an episode, after finite actions. Correct the environment"
            )
