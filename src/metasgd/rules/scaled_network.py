"""The optimizer network with each parameter's rate scaled: by the size of its gradients, and by that of its layer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metasgd.rules.base import Coefficients, Params, State, Steps, beside
from metasgd.rules.optimizer_network import Input, OptimizerNetwork
from metasgd.rules.schedule import Schedule

V = "v."
"""A state's key for the mean square gradient of the parameter NAME is ``v.NAME``."""
W = "w."
"""A state's key for how much of that mean has been seen, for each row of the parameter NAME, is ``w.NAME``."""
GRADIENT_SQUARE = "gradient_square"
"""The state's key for the running mean of g² over all parameters."""
DECAY = 0.99
SMALLEST = 1e-6
"""What counts as no gradient: below it a parameter's rate grows no more."""
RELATIVE_SMALLEST = 1e-4
"""The same, as a share of the root mean square of the gradients that are looked at together."""
OF_A_VECTOR = 0.1
"""The scale of biases and of a normalisation's weights, which have no inputs to count: as of a layer of 100."""


class ScaledOptimizerNetwork(OptimizerNetwork):
    """The optimizer network's (η, μ), with η shared out to the parameters by their gradients and their layers.

    ``v_{s+1} = δ v_s + (1 − δ) g_s²,  m_{s+1} = μ_s m_s + g_s,  θ_{s+1} = θ_s − η_s c m_{s+1} / √(v̂ + ε²)``

    with δ = 0.99, ε = 1e-6 and ``v̂ = v_{s+1} / (1 − δ^{s+1})``, which takes its start at zero out of the mean
    (Adam, Kingma and Ba 2015). c is 1/√(inputs of a unit), by which layers are initialised, and 0.1 for vectors.
    So η is the size of a step relative to that of the weights, and what was learned on one architecture means the
    same on another.

    With ``scale_free``, no unit and no zero of the loss changes a step:

    - ``v̂ = v / w`` with ``w_{s+1} = w_s + (1 − δ) (1 − w_s)``, and v likewise, only where the row of a tensor (an
      embedding's row, a unit's weights, an entry of a vector) has a gradient that is not zero: the mean over the
      steps that say something. A layer or a row that comes in late starts as all did.
    - ``ε = 1e-4 G``, with G² the running mean of g² over all parameters.
    - ``loss`` and ``trend`` are read as those of a loss that stays at 1, and ``gradient_norm`` relative to G.

    Args:
        learning_rate: η₀, above 0; relative to the size of the weights.
        momentum: μ₀, above 0 and below 1.
        hidden: width of each hidden layer of the MLP.
        inputs: what it reads, as ``OptimizerNetwork`` has it.
        per_layer: answer a pair for every tensor of θ instead of one pair for all.
        schedule: of η over the whole training, as ``OptimizerNetwork`` has it.
        scale_free: see above. None leaves it to who uses the rule: meta-training takes False, ``LearnedOptimizer``
            True.

    Example:
        >>> rule = ScaledOptimizerNetwork(learning_rate=0.5)
        >>> rule.bind({"w": torch.zeros(2)}, inner_steps=3)
        >>> theta, grads = {"w": torch.zeros(2)}, {"w": torch.tensor([2.0, -1.0])}
        >>> theta, _ = rule(0, theta, grads, torch.tensor(3.0), rule.init_state(theta))
        >>> [round(x, 4) for x in theta["w"].tolist()]  # of one size, whatever that of the gradients: −η₀ c sign g
        [-0.05, 0.05]

    References:
        Kingma and Ba, Adam, 2015 (arXiv 1412.6980).
    """

    fixed = (*OptimizerNetwork.fixed, "scale_free")

    def __init__(
        self,
        learning_rate: float = 0.1,
        momentum: float = 0.1,
        hidden: Sequence[int] = (32, 32),
        inputs: Sequence[Input] = ("loss",),
        per_layer: bool = False,
        schedule: Schedule | None = None,
        scale_free: bool | None = None,
    ) -> None:
        super().__init__(learning_rate, momentum, hidden, inputs, per_layer, schedule)
        self.scale_free = scale_free

    def init_state(self, params: Params) -> State:
        state = super().init_state(params) | {V + n: torch.zeros_like(p) for n, p in params.items()}
        if not self.scale_free:
            return state
        like = next(iter(params.values()), next(self.mlp.parameters()))
        rows = {W + n: like.new_zeros(p.shape[:1], dtype=p.dtype) for n, p in params.items()}
        return state | rows | {GRADIENT_SQUARE: like.new_zeros(())}

    def coefficients(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Coefficients:
        if self.scale_free:
            return self._scale_free(step, grads, loss, state)
        eta, mu, memory = super().coefficients(step, grads, loss, state)
        before = {k: t for k, t in state.items() if k.startswith(V)}
        v = {}
        for n, g in grads.items():
            new = (1 - DECAY) * g.square()
            v[n] = torch.add(new, before[V + n], alpha=DECAY) if V + n in before else new
        seen = 1 - DECAY ** (torch.as_tensor(step, dtype=loss.dtype, device=loss.device) + 1)
        rates = {
            n: eta[n] * scale_of(t.shape[loss.ndim :]) * (t / beside(seen, t) + SMALLEST**2).rsqrt()
            for n, t in v.items()
        }
        # what has no gradient this time keeps its mean
        return Coefficients(rates, mu, memory | before | {V + n: t for n, t in v.items()})

    def _scale_free(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Coefficients:
        lead = loss.ndim
        size = self._gradient_square(step, grads, loss, state)
        eta, mu, memory = super().coefficients(step, grads, loss, {**state, GRADIENT_SQUARE: size})
        means = {k: t for k, t in state.items() if k.startswith((V, W))} | {GRADIENT_SQUARE: size}
        rates = {}
        for n, g in grads.items():
            share = (1 - DECAY) * has_gradient(g, lead)
            v = torch.lerp(state[V + n], g.square(), beside(share, g))
            w = torch.lerp(state[W + n], torch.ones_like(share), share)
            mean = v / beside(w.clamp_min(1 - DECAY), g) + RELATIVE_SMALLEST**2 * beside(size, g)
            # a derivative of 1/√0 would be infinite; where the mean is 0 so is every gradient
            root = torch.where(mean > 0, mean, 1.0).rsqrt()
            rates[n] = eta[n] * scale_of(g.shape[lead:]) * torch.where(mean > 0, root, 0.0)
            means |= {V + n: v, W + n: w}
        return Coefficients(rates, mu, memory | means)

    def _gradient_square(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Tensor:
        """G²: the plain mean of the first hundred steps, which forgets later."""
        squares = [g.square().flatten(loss.ndim).sum(dim=-1).to(loss) for g in grads.values()]
        elements = sum(g[(0,) * loss.ndim].numel() for g in grads.values())
        mean = torch.stack(squares).sum(dim=0) / elements
        share = 1 / (torch.as_tensor(step, dtype=loss.dtype, device=loss.device) + 1)
        return torch.lerp(state[GRADIENT_SQUARE], mean, share.clamp_min(1 - DECAY).expand_as(mean))

    def _log_loss(self, loss: Tensor) -> Tensor:
        return torch.zeros_like(loss) if self.scale_free else super()._log_loss(loss)

    def _log_norm(self, grads: Params, loss: Tensor, state: State) -> Tensor:
        if not self.scale_free:
            return super()._log_norm(grads, loss, state)
        squares = [g.square().flatten(loss.ndim).sum(dim=-1).to(loss) for g in grads.values()]
        elements = sum(g[(0,) * loss.ndim].numel() for g in grads.values())
        size = state[GRADIENT_SQUARE] * elements
        share = torch.stack(squares).sum(dim=0) / torch.where(size > 0, size, 1.0)
        return torch.where(size > 0, 0.5 * (share + 1e-16).log10(), 0.0)


def scale_of(shape: torch.Size) -> float:
    """c, of a parameter ``[units, inputs of a unit …]`` or of a vector."""
    return max(1, shape[1:].numel()) ** -0.5 if len(shape) > 1 else OF_A_VECTOR


def has_gradient(g: Tensor, lead: int = 0) -> Tensor:
    """1 for each row of a tensor with a gradient that is not zero, otherwise 0: ``[*lead, rows]``, or ``[*lead]``."""
    rows = g.detach()
    if rows.ndim > lead + 1:  # ``any`` takes five times as long
        rows = rows.flatten(lead + 1).abs().sum(dim=-1)
    return (rows != 0).to(g.dtype)
