"""ALFA: a rate and a weight decay for each tensor at each inner step, generated from weights and gradients."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metasgd.errors import raise_problems
from metasgd.rules.base import Params, State, Steps, beside, key_of, without_autocast
from metasgd.rules.gradient_descent import PerLayerPerStep, at_step
from metasgd.rules.initial_values import Bounds, Start, outside


class ALFA(PerLayerPerStep):
    """An MLP generates each tensor's rate and weight decay from what all tensors' weights and gradients are on average.

    ``(a, d)_s = MLP_φ(mean g_s, mean θ_s),  θ_{s+1} = (1 − δ_{tensor, s} d) θ_s − η_{tensor, s} a g_s``

    with the means over each of the L tensors, and so 2 L numbers in, 2 L hidden units (ReLU) and 2 L numbers out, a
    factor a and a factor d for each tensor. Rates η and decays δ for each tensor and inner step are learned beside it;
    steps beyond those it was trained with use the last. The MLP's last layer starts at weights 0 and biases 1, so
    that the rule starts as ``PerLayerPerStep`` with weight decay.

    Args:
        init: where every η starts: a number, or ``[low, high]`` from which one number is drawn for all.
        decay: where every δ starts, from 0 to below 1: what share of the weights a step takes away.
        bounds: ``[low, high]`` that the η are clipped to; none by default.

    Example:
        >>> rule = ALFA(init=0.5, decay=0.25)
        >>> rule.bind({"w": torch.zeros(2)}, inner_steps=1)
        >>> theta, _ = rule(0, {"w": torch.tensor([4.0, 8.0])}, {"w": torch.tensor([2.0, 0.0])}, torch.zeros(()), {})
        >>> theta["w"].tolist()  # 0.75 θ − 0.5 g
        [2.0, 6.0]

    References:
        Baik, Choi, Choi, Kim, Lee, Meta-Learning with Adaptive Hyperparameters, NeurIPS 2020 (arXiv 2011.00209).
    """

    hidden: nn.Linear
    output: nn.Linear

    def __init__(self, init: Start = 0.1, decay: float = 5e-5, bounds: Bounds = None) -> None:
        super().__init__(init, bounds)
        raise_problems(outside("decay", decay, 0, 1, low_allowed=True))
        self.decay = decay
        self.delta = nn.ParameterDict()

    def bind(self, params: Mapping[str, Tensor], inner_steps: int) -> None:
        super().bind(params, inner_steps)
        self.delta = nn.ParameterDict({key_of(n): p.new_full((inner_steps,), self.decay) for n, p in params.items()})
        like, width = next(iter(params.values())).real, 2 * len(params)
        self.hidden, self.output = (nn.Linear(width, width, device=like.device, dtype=like.dtype) for _ in range(2))
        nn.init.zeros_(self.output.weight)
        nn.init.ones_(self.output.bias)

    def generate(self, params: Params, grads: Params, loss: Tensor) -> tuple[Tensor, Tensor]:
        """``(a, d)``, each ``[*lead, L]``; a tensor that has no gradient this time counts as zero."""
        means = [
            part[n].reshape(*loss.shape, -1).mean(-1).to(loss) if n in grads else torch.zeros_like(loss)
            for part in (grads, params)
            for n in self.names
        ]
        with without_autocast(loss):
            factors = self.output(self.hidden(torch.stack(means, dim=-1).to(self.hidden.weight.dtype)).relu())
        a, d = factors.chunk(2, dim=-1)
        return a, d

    def forward(self, step: Steps, params: Params, grads: Params, loss: Tensor, state: State) -> tuple[Params, State]:
        a, d = (dict(zip(self.names, of.unbind(-1), strict=True)) for of in self.generate(params, grads, loss))
        scaled = {n: beside(a[n], g) * g for n, g in grads.items()}
        decays = {n: at_step(self.delta[key_of(n)], step) * d[n] for n in params}
        shrunk = {n: (1 - beside(decays[n], p)) * p for n, p in params.items()}
        return super().forward(step, shrunk, scaled, loss, state)
