"""The optimizer network: an update rule that reads the loss and answers (learning rate, momentum)."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metasgd.errors import raise_problems
from metasgd.rules.base import Coefficients, Params, State, Steps, UpdateRule, beside, no_momentum, without_autocast
from metasgd.rules.initial_values import logit, outside
from metasgd.rules.loss_history import empty_history, read_loss
from metasgd.rules.schedule import Schedule, schedule_factor

Input = Literal["loss", "step", "gradient_norm", "trend", "progress", "relative_loss", "relative_trend"]
INPUTS: tuple[Input, ...] = ("loss", "step", "gradient_norm", "trend", "progress", "relative_loss", "relative_trend")
RELATIVE = ("relative_loss", "relative_trend")
"""Those that read how the losses compare with one another, and stay the same for a L + b."""
AVERAGE = "log_loss_average"
"""The state's key for the running average of log10 L, from 0, from which the trend is read."""
SMOOTHING = 0.9


class OptimizerNetwork(UpdateRule):
    """An MLP φ maps the support loss to the (learning rate, momentum) of the next inner step.

    ``(η_s, μ_s) = MLP_φ(L_s),  m_{s+1} = μ_s m_s + g_s,  θ_{s+1} = θ_s − η_s m_{s+1}``

    with ``η = η₀ exp(o₁) > 0`` and ``0 < μ = σ(σ⁻¹(μ₀) + o₂) < 1`` of the MLP's two outputs. The last layer
    starts at zero, so that (η₀, μ₀) is what it answers first, whatever it reads. Losses are read on a
    logarithmic scale that maps 1e-4 … 1e2 to −1 … 1.

    Args:
        learning_rate: η₀, above 0.
        momentum: μ₀, above 0 and below 1.
        hidden: width of each hidden layer of the MLP.
        inputs: what it reads: ``loss``, ``step`` (the number of the inner step, as log(1+s)),
            ``gradient_norm`` (its logarithm), ``trend`` (how far log10 L is above its running average),
            ``progress`` (s over the steps of the whole training), ``relative_loss`` and ``relative_trend``
            (``rules.loss_history``: no unit and no zero of the loss changes them), in this order.
        per_layer: answer a pair for every tensor of θ instead of one pair for all. One pair fits any network.
        schedule: of η over the whole training, a factor as ``rules.schedule.schedule_factor`` has it. None leaves it to
            who uses the rule: meta-training takes ``none``, ``LearnedOptimizer`` may take another.

    Raises:
        UserError: an argument is out of its range.

    Example:
        >>> rule = OptimizerNetwork(learning_rate=0.5, momentum=0.1)
        >>> rule.bind({"w": torch.zeros(2)}, inner_steps=3)
        >>> theta, grads = {"w": torch.zeros(2)}, {"w": torch.tensor([2.0, -1.0])}
        >>> stepped, _ = rule(0, theta, grads, torch.tensor(3.0), rule.init_state(theta))
        >>> stepped["w"].tolist()  # at first −η₀ g
        [-1.0, 0.5]
    """

    fixed: tuple[str, ...] = ("learning_rate", "momentum", "inputs", "per_layer", "schedule")

    def __init__(
        self,
        learning_rate: float = 0.1,
        momentum: float = 0.1,
        hidden: Sequence[int] = (32, 32),
        inputs: Sequence[Input] = ("loss",),
        per_layer: bool = False,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__()
        problems = outside("learning_rate", learning_rate, 0, math.inf) + outside("momentum", momentum, 0, 1)
        if not hidden or min(hidden) < 1:
            problems.append(f"hidden is {list(hidden)}: widths of at least 1 are needed")
        if not inputs or list(inputs) != [i for i in INPUTS if i in inputs]:
            problems.append(f"inputs is {list(inputs)}: some of {list(INPUTS)}, each once, in this order")
        raise_problems(problems)
        self.learning_rate, self.momentum = learning_rate, momentum
        self.inputs, self.per_layer = tuple(inputs), per_layer
        self.schedule: Schedule | None = schedule
        self.reads_progress = "progress" in inputs or schedule == "trapezoid"
        self.hidden = tuple(hidden)
        self.mlp = nn.Sequential()

    def bind(self, params: Mapping[str, Tensor], inner_steps: int) -> None:
        super().bind(params, inner_steps)
        sizes = [len(self.inputs), *self.hidden]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.Tanh()]
        last = nn.Linear(sizes[-1], 2 * (len(params) if self.per_layer else 1))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(*layers, last).to(next(iter(params.values())).dtype.to_real())

    def serves(self) -> Mapping[str, torch.Size | None] | None:
        return dict.fromkeys(self.names) if self.per_layer else None

    def init_state(self, params: Params) -> State:
        like = next(iter(params.values()), next(self.mlp.parameters()))
        trend = {AVERAGE: like.new_zeros(())} if "trend" in self.inputs else {}
        return no_momentum(params) | trend | (empty_history(like.new_zeros(())) if self._reads(RELATIVE) else {})

    def read(self, step: Steps, loss: Tensor, grads: Params, state: State | None = None) -> Tensor:
        """What the MLP is given, ``[*lead, inputs]``, for a loss of shape ``lead`` (``[]`` or ``[B]``)."""
        log_loss = self._log_loss(loss)
        features = {"loss": (log_loss + 1) / 3}
        if "step" in self.inputs:
            features["step"] = _of_each(step, loss).log1p()
        if "gradient_norm" in self.inputs:
            features["gradient_norm"] = self._log_norm(grads, loss, state or {})
        if "trend" in self.inputs:
            features["trend"] = _trend(step, log_loss, (state or {})[AVERAGE])
        if "progress" in self.inputs:
            features["progress"] = (_of_each(step, loss) / self.total_steps).clamp_max(1)
        if self._reads(RELATIVE):
            history = read_loss(step, loss, state or {})
            features |= {"relative_loss": history.level, "relative_trend": history.trend}
        return torch.stack([features[i] for i in self.inputs], dim=-1)

    def _log_loss(self, loss: Tensor) -> Tensor:
        """What ``loss`` and ``trend`` are read from."""
        return log10(loss)

    def _log_norm(self, grads: Params, loss: Tensor, state: State) -> Tensor:
        """What ``gradient_norm`` is: log10 of the norm of all gradients."""
        squares = torch.stack([norm.to(loss) for norm in _norms(grads, loss.shape)]).square().sum(dim=0)
        # the tiny summand keeps the logarithm's derivative finite at a gradient of zero
        return 0.5 * (squares + 1e-16).log10()

    def _reads(self, inputs: Sequence[str]) -> bool:
        return any(name in self.inputs for name in inputs)

    def choose(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """``(η, μ)``, each ``[*lead, 1 or tensors]``, for what the MLP is given."""
        # in rows, by the functions themselves: an optimizer's step has little time for more
        x = features.reshape(-1, features.shape[-1])
        with without_autocast(features):
            for layer in self.mlp:
                if isinstance(layer, nn.Linear):
                    x = F.linear(x.to(layer.weight.dtype), layer.weight, layer.bias)
                else:
                    x = x.tanh()
            log_factor, shift = x.reshape(*features.shape[:-1], -1).chunk(2, dim=-1)
            return self.learning_rate * log_factor.exp(), torch.sigmoid(shift + logit(self.momentum))

    def coefficients(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Coefficients:
        eta, mu = self.choose(self.read(step, loss, grads, state))
        if self.schedule == "trapezoid":
            eta = eta * schedule_factor(self.schedule, _of_each(step, loss), self.total_steps).unsqueeze(-1)  # type: ignore[union-attr] # a tensor
        memory = {"learning_rate": eta, "momentum": mu}
        if "trend" in self.inputs:
            memory[AVERAGE] = state[AVERAGE].lerp(self._log_loss(loss).to(state[AVERAGE]), 1 - SMOOTHING)
        if self._reads(RELATIVE):
            memory |= read_loss(step, loss, state).state
        return Coefficients(self._given_out(eta, grads), self._given_out(mu, grads), memory)

    def _given_out(self, figures: Tensor, grads: Params) -> Params:
        """``figures [*lead, 1 or tensors]`` to the parameters that they are for."""
        if not self.per_layer:
            figure = figures[..., 0]
            return {n: beside(figure, g) for n, g in grads.items()} if figure.ndim else dict.fromkeys(grads, figure)
        own = dict(zip(self.names, figures.unbind(dim=-1), strict=True))
        return {n: beside(own[n], g) for n, g in grads.items()}


def _norms(grads: Params, lead: torch.Size) -> Sequence[Tensor]:
    """The norm of each tensor, for every task in ``lead``."""
    if not lead:
        return torch._foreach_norm(list(grads.values()))
    return [torch.linalg.vector_norm(g.reshape(*lead, -1), dim=-1) for g in grads.values()]


def _of_each(step: Steps, loss: Tensor) -> Tensor:
    """The number of the step beside each loss."""
    return torch.full_like(loss, step) if isinstance(step, int) else step.to(loss).expand_as(loss)


def _trend(step: Steps, log_loss: Tensor, average: Tensor) -> Tensor:
    """How far log10 L is above its average so far; 0 at the first step.

    An average from 0 weighs what it has seen in s steps by 1 - SMOOTHING^s.
    """
    if isinstance(step, int):
        return log_loss - average / (1 - SMOOTHING**step) if step else torch.zeros_like(log_loss)
    seen = (1 - SMOOTHING ** step.to(log_loss)).clamp_min(1 - SMOOTHING)
    return torch.where(step > 0, log_loss - average / seen, 0.0)


def log10(loss: Tensor) -> Tensor:
    """Of a loss between 1e-8 and 1e8."""
    return loss.clamp(1e-8, 1e8).log10()
