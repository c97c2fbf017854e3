"""The optimizer network: an update rule that reads the loss and answers (learning rate, momentum)."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from metasgd.errors import raise_problems
from metasgd.rules.gradient_descent import Coefficients, Params, State, Steps, UpdateRule, beside, no_momentum
from metasgd.rules.initial_values import logit, outside

Input = Literal["loss", "step", "gradient_norm", "trend", "progress"]
INPUTS: tuple[Input, ...] = ("loss", "step", "gradient_norm", "trend", "progress")
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
            ``progress`` (s over the steps of the whole training), in this order.
        per_layer: answer a pair for every tensor of θ instead of one pair for all. One pair fits any network.
    """

    fixed = ("learning_rate", "momentum", "inputs", "per_layer")

    def __init__(
        self,
        learning_rate: float = 0.1,
        momentum: float = 0.1,
        hidden: Sequence[int] = (32, 32),
        inputs: Sequence[Input] = ("loss",),
        per_layer: bool = False,
    ) -> None:
        super().__init__()
        where = "model.update_rule.init_args"
        problems = outside("learning_rate", learning_rate, 0, math.inf) + outside("momentum", momentum, 0, 1)
        if not hidden or min(hidden) < 1:
            problems.append(f"{where}.hidden is {list(hidden)}: widths of at least 1 are needed")
        if not inputs or list(inputs) != [i for i in INPUTS if i in inputs]:
            problems.append(f"{where}.inputs is {list(inputs)}: some of {list(INPUTS)}, each once, in this order")
        raise_problems(problems)
        self.learning_rate, self.momentum = learning_rate, momentum
        self.inputs, self.per_layer = tuple(inputs), per_layer
        self.reads_progress = "progress" in inputs
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
        self.mlp = nn.Sequential(*layers, last).to(next(iter(params.values())).dtype)

    def serves(self) -> Mapping[str, torch.Size | None] | None:
        return dict.fromkeys(self.names) if self.per_layer else None

    def init_state(self, params: Params) -> State:
        like = next(iter(params.values()), next(self.mlp.parameters()))
        return no_momentum(params) | ({AVERAGE: like.new_zeros(())} if "trend" in self.inputs else {})

    def read(self, step: Steps, loss: Tensor, grads: Params, state: State | None = None) -> Tensor:
        """What the MLP is given, ``[*lead, inputs]``, for a loss of shape ``lead`` (``[]`` or ``[B]``)."""
        log_loss = log10(loss)
        features = {"loss": (log_loss + 1) / 3}
        if "step" in self.inputs:
            features["step"] = _of_each(step, loss).log1p()
        if "gradient_norm" in self.inputs:
            squares = torch.stack([norm.to(loss) for norm in _norms(grads, loss.shape)]).square().sum(dim=0)
            # the tiny summand keeps the logarithm's derivative finite at a gradient of zero
            features["gradient_norm"] = 0.5 * (squares + 1e-16).log10()
        if "trend" in self.inputs:
            features["trend"] = _trend(step, log_loss, (state or {})[AVERAGE])
        if "progress" in self.inputs:
            features["progress"] = (_of_each(step, loss) / self.total_steps).clamp_max(1)
        return torch.stack([features[i] for i in self.inputs], dim=-1)

    def choose(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """``(η, μ)``, each ``[*lead, 1 or tensors]``, for what the MLP is given."""
        if torch.is_autocast_enabled(features.device.type):
            with torch.autocast(features.device.type, enabled=False):  # rates are no place to save digits
                return self.choose(features)
        # in rows, by the functions themselves: an optimizer's step has little time for more
        x = features.reshape(-1, features.shape[-1])
        for layer in self.mlp:
            x = F.linear(x, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else x.tanh()
        log_factor, shift = x.reshape(*features.shape[:-1], -1).chunk(2, dim=-1)
        return self.learning_rate * log_factor.exp(), torch.sigmoid(shift + logit(self.momentum))

    def coefficients(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Coefficients:
        eta, mu = self.choose(self.read(step, loss, grads, state))
        memory = {"learning_rate": eta, "momentum": mu}
        if "trend" in self.inputs:
            memory[AVERAGE] = state[AVERAGE].lerp(log10(loss), 1 - SMOOTHING)
        return Coefficients(self._given_out(eta, grads), self._given_out(mu, grads), memory)

    def _given_out(self, figures: Tensor, grads: Params) -> Params:
        """``figures [*lead, 1 or tensors]`` to the parameters that they are for."""
        if not self.per_layer:
            figure = figures[..., 0]
            return {n: beside(figure, g) for n, g in grads.items()} if figure.ndim else dict.fromkeys(grads, figure)
        own = dict(zip(self.names, figures.unbind(dim=-1), strict=True))
        return {n: beside(own[n], g) for n, g in grads.items()}


class Answer(NamedTuple):
    """``Coefficients`` in plain numbers; the one pair for all tensors is the same object for each."""

    rates: dict[str, float]
    momenta: dict[str, float]
    memory: dict[str, float | list[float]]


class Answers:
    """What an optimizer network answers to one loss: its ``coefficients``, at a fraction of the time.

    An optimizer's step is short, and every operation on a tensor takes as long as the whole of this.

    Args:
        rule: whose φ is taken over, in float64, as it is now.
    """

    def __init__(self, rule: OptimizerNetwork) -> None:
        self.rule = rule
        linear = [layer for layer in rule.mlp if isinstance(layer, nn.Linear)]
        self.layers = [(_numbers(layer.weight), _numbers(layer.bias)) for layer in linear]

    def __call__(
        self, step: int, grads: Params, loss: float, memory: Mapping[str, Tensor | float | list[float]]
    ) -> Answer:
        rule = self.rule
        log_loss = math.log10(min(max(loss, 1e-8), 1e8))
        average = float(memory[AVERAGE]) if "trend" in rule.inputs else 0.0  # type: ignore[arg-type] # one figure
        x = np.array([self._feature(name, step, grads, log_loss, average) for name in rule.inputs])
        for weight, bias in self.layers[:-1]:
            x = np.tanh(weight @ x + bias)
        weight, bias = self.layers[-1]
        log_factors, shifts = np.split(weight @ x + bias, 2)
        etas = (rule.learning_rate * np.exp(log_factors)).tolist()
        mus = (0.5 + 0.5 * np.tanh(0.5 * (shifts + logit(rule.momentum)))).tolist()  # the sigmoid
        kept = {AVERAGE: SMOOTHING * average + (1 - SMOOTHING) * log_loss} if "trend" in rule.inputs else {}
        if not rule.per_layer:
            [eta], [mu] = etas, mus
            return Answer(
                dict.fromkeys(grads, eta), dict.fromkeys(grads, mu), {"learning_rate": eta, "momentum": mu, **kept}
            )
        rates, momenta = (dict(zip(rule.names, figures, strict=True)) for figures in (etas, mus))
        return Answer(rates, momenta, {"learning_rate": etas, "momentum": mus, **kept})

    def _feature(self, name: Input, step: int, grads: Params, log_loss: float, average: float) -> float:
        """As ``OptimizerNetwork.read`` has it."""
        if name == "loss":
            return (log_loss + 1) / 3
        if name == "step":
            return math.log1p(step)
        if name == "gradient_norm":
            norms = _norms(grads, torch.Size())
            total = torch.linalg.vector_norm(torch.stack([norm.to(norms[0]) for norm in norms]))
            return 0.5 * math.log10(float(total) ** 2 + 1e-16)
        if name == "trend":
            return log_loss - average / (1 - SMOOTHING**step) if step else 0.0
        return min(step / self.rule.total_steps, 1.0)


def _numbers(weights: Tensor) -> NDArray[np.float64]:
    return weights.detach().cpu().double().numpy()  # numpy knows no bfloat16


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
    return loss.clamp(1e-8, 1e8).log10()
