"""Antithetic persistent evolution strategies: gradients of long inner runs out of losses alone."""

import math
from collections.abc import Sequence

from metasgd.construction import Configurable
from metasgd.errors import UserError, raise_problems, too_small
from metasgd.meta.paired_runs import Variety
from metasgd.rules.base import UpdateRule


class PersistentEvolution(Configurable):
    """The estimator ``pes``, for ``MetaModel``'s ``segments`` above 1.

    Each run is made twice, by ``φ + ε_k`` and by ``φ − ε_k`` in its segment k, with ``ε_k ~ N(0, σ² I)`` new in every
    segment and ξ the sum of those so far. Of the losses ``L±`` at a segment's end

    ``∇ ≈ ξ (L⁺ − L⁻) / (2 σ²)``

    is an unbiased estimate of the gradient of the sum of all segments' losses, smoothed by the perturbations: also of
    what a step does to losses many segments later. Nothing is differentiated in φ, so that no graph is held.

    With ``single`` a run has one ε in all its segments, and ``∇ ≈ ε (L⁺ − L⁻) / (2 σ²)`` is unbiased likewise.

    Args:
        perturbation: σ, above 0.
        shortest_run: inner steps of the shortest runs: their lengths are log-uniform from there to ``inner_steps *
            segments``, and a run that ends is followed by another of the same task. None: all are the longest.
        reparameterise: standard deviation of the logarithm of a factor on each tensor of a run, by which its weights
            come divided to the rule and multiplied to the network (Moudgil et al., Celo, 2025).
        single: one ε for a whole run.
        last_loss: the loss at a run's end alone counts, not the sum over its segments.
        smallest_minibatch: of a run's inner steps, which are ``minibatch_shots`` halved up to so many. None: no run's
            are halved. What is halved is repeated, so that runs stay one stack.
        fixed: the names of those of φ that are not perturbed, and stay as they are.

    Raises:
        UserError: an argument is out of its range.

    Example:
        >>> from metasgd.meta.model import MetaModel
        >>> from metasgd.nn import MLP
        >>> from metasgd.rules import ScheduledAdam
        >>> estimator = PersistentEvolution(perturbation=0.01)
        >>> model = MetaModel(MLP(1, [8], 1), ScheduledAdam(), 10, segments=20, loss="mse", estimator=estimator)
        >>> x, classes, index = torch.rand(4, 5, 1), torch.zeros(4, 1, dtype=torch.int64), torch.arange(4)
        >>> gradient = model.meta_gradient(Episode(x, x.sin(), x, x.sin(), classes, index))
        >>> gradient.phi["exponent"].shape
        torch.Size([5])

    References:
        Vicol, Metz, Sohl-Dickstein 2021: Unbiased Gradient Estimation in Unrolled Computation Graphs with Persistent
        Evolution Strategies, https://arxiv.org/abs/2112.13835
        Vicol 2023: Low-Variance Gradient Estimation in Unrolled Computation Graphs with ES-Single,
        https://arxiv.org/abs/2304.11153
    """

    name = "pes"

    def __init__(
        self,
        perturbation: float = 0.01,
        shortest_run: int | None = None,
        reparameterise: float = 0.0,
        single: bool = False,
        last_loss: bool = False,
        smallest_minibatch: int | None = None,
        fixed: Sequence[str] = (),
    ) -> None:
        problems = too_small(("shortest_run", shortest_run, 1), ("smallest_minibatch", smallest_minibatch, 1))
        for name, value, fits in (
            ("perturbation", perturbation, 0 < perturbation < math.inf),
            ("reparameterise", reparameterise, 0 <= reparameterise < math.inf),
        ):
            if not fits:
                least = "above 0" if name == "perturbation" else "of 0 or above"
                problems.append(f"{name} is {value}: a finite number {least} is needed")
        raise_problems(problems)
        self.perturbation = perturbation
        self.single, self.last_loss, self.fixed = single, last_loss, tuple(fixed)
        self.variety = Variety(shortest_run, reparameterise, smallest_minibatch)

    def validate(self, rule: UpdateRule) -> None:
        """Refuse names of φ that the rule does not have.

        Raises:
            UserError: names one.
        """
        names = [n for n, _ in rule.named_parameters()]
        for n in self.fixed:
            if n not in names:
                raise UserError(
                    f"fixed names {n!r}, but {type(rule).__name__} has {', '.join(names) or 'nothing learned'}"
                )
