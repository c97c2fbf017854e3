"""The objective of reinforcement learning: the return of a policy, on trajectories of its own."""

from functools import partial

import torch
from torch import Tensor

from metasgd.episode import Batch, Outputs
from metasgd.errors import UserError, raise_problems, too_small
from metasgd.meta.objectives import Objective
from metasgd.rl.advantages import advantages
from metasgd.rl.environment import Environment
from metasgd.rl.policy import log_probability
from metasgd.rl.rollout import Trajectories, rollout
from metasgd.rl.surrogates import SURROGATES, Surrogate, SurrogateName, ppo


class PolicyGradient(Objective):
    """``L = −E[Σ_t r_t]``, by trajectories that the policy makes at every inner step and again for the outer loss.

    The loss has the value of minus the mean return of K trajectories, and the derivatives of a surrogate on them (see
    ``metasgd.rl.surrogates``): the inner step is REINFORCE with a baseline, and its exact meta-gradient has the second
    derivatives of the expected return in place of those of a loss on given examples.

    Args:
        environment: that the tasks are of.
        surrogate: ``dice``, whose second derivatives are unbiased, or ``lvc``, whose have less variance.
        discount: γ of the returns that advantages are made of; the returns that are logged are not discounted.
        baseline: subtract a baseline, linear in features, fitted to each task's trajectories.
        standardise: advantages of mean 0 and standard deviation 1, and means over steps, as in the code of MAML.
            Without it and with a discount of 1, the derivatives are those of the expected return itself.
        passes: outer updates on the trajectories of one outer step. The first is REINFORCE; from the second on the
            ratios to the policies that acted count, in the inner steps as ``surrogate`` has them and in the outer loss
            clipped: PPO, as ProMP has it (Rothfuss et al. 2019), without its penalty on how far inner policies move.
        clip: ε, how far from 1 a ratio counts in the outer loss.

    Raises:
        UserError: an argument is out of its range.

    Example:
        >>> from metasgd.meta.model import MetaModel
        >>> from metasgd.rl import GaussianPolicy, Navigation, Trials
        >>> from metasgd.rules import PerParameter
        >>> model = MetaModel(GaussianPolicy(), PerParameter(0.1), loss=PolicyGradient(Navigation(horizon=5)))
        >>> tasks = Trials.draw(seed=0, split="train", indices=[0, 1, 2], trajectories=4)
        >>> model.meta_gradient(tasks).query_losses.shape  # minus the mean return after a step on each task
        torch.Size([3])

    References:
        Williams 1992: REINFORCE; Duan et al. 2016, https://arxiv.org/abs/1604.06778; Rothfuss et al. 2019: ProMP,
        https://arxiv.org/abs/1810.06784
    """

    environment: Environment
    metric = "return"
    higher_is_better = True

    def __init__(
        self,
        environment: Environment,
        surrogate: SurrogateName = "lvc",
        discount: float = 0.99,
        baseline: bool = True,
        standardise: bool = True,
        passes: int = 1,
        clip: float = 0.2,
    ) -> None:
        problems = too_small(("passes", passes, 1))
        if not 0 < discount <= 1:
            problems.append(f"discount is {discount}: a number above 0 and at most 1 is needed")
        if not 0 < clip < 1:
            problems.append(f"clip is {clip}: a number above 0 and below 1 is needed")
        raise_problems(problems)
        self.environment, self.surrogate = environment, SURROGATES[surrogate]
        self.discount, self.baseline, self.standardise = discount, baseline, standardise
        self.passes, self.query_loss = passes, self._clipped if passes > 1 else None
        self.clipped = partial(ppo, clip=clip)

    def trajectories(self, batch: Batch, step: int, outputs: Outputs) -> Trajectories:
        """Those of a policy at inner step ``step`` for the tasks of ``batch``, as ``Trials`` draws them."""
        seed, task = batch
        return rollout(self.environment, outputs, task[..., 0], seed + step)

    def experience(self, batch: Batch, step: int, outputs: Outputs) -> Batch:
        """Observations ``[*lead, K, H, O]``; and ``[*lead, K, H, A + 3]``: actions, log π, A, and rewards."""
        made = self.trajectories(batch, step, outputs)
        found = advantages(made, self.discount, self.baseline, self.standardise)
        columns = torch.stack([made.log_probs, found, made.rewards], dim=-1)
        return made.observations, torch.cat([made.actions, columns], dim=-1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of the policy's outputs ``[K, H, 2A]`` on one task's trajectories, and ``[K, H, A + 3]`` as above."""
        return _loss(outputs, targets, self.surrogate)

    def _clipped(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return _loss(outputs, targets, self.clipped)

    def validate_targets(self, targets: Tensor) -> None:
        if targets.dtype != torch.int64 or targets.ndim != 2:
            raise UserError(
                "loss is PolicyGradient, but the tasks come with examples. Set source to metasgd.rl.Trials, or use"
                " another loss"
            )

    def measure(self, outputs: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
        return -losses


def _loss(outputs: Tensor, targets: Tensor, surrogate: Surrogate) -> Tensor:
    actions, (log_probs, found, rewards) = targets[..., :-3], targets[..., -3:].unbind(dim=-1)
    log_ratios = log_probability(outputs, actions) - log_probs
    return -(rewards.sum(dim=-1).mean() + surrogate(log_ratios, found))
