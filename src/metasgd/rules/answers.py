"""What an optimizer network answers to one loss, in plain numbers: an optimizer's step is short."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metasgd.rules.loss_history import KEYS, empty_history, read_number
from metasgd.rules.optimizer_network import AVERAGE, RELATIVE, SMOOTHING, Input, OptimizerNetwork
from metasgd.rules.scaled_network import DECAY, GRADIENT_SQUARE
from metasgd.rules.schedule import schedule_factor

Memory = Mapping[str, Tensor | float | list[float]]


class GradientSize(NamedTuple):
    """The gradients of a step in two numbers.

    Attributes:
        square_sum: of all their elements.
        elements: how many there are.
    """

    square_sum: float
    elements: int


class Answer(NamedTuple):
    """``Coefficients`` in plain numbers; the one pair for all tensors is the same object for each."""

    rates: dict[str, float]
    momenta: dict[str, float]
    memory: dict[str, float | list[float]]


class Answers:
    """What an optimizer network answers to one loss: η and μ of its ``coefficients``, at a fraction of the time.

    Every operation on a tensor takes as long as the whole of this.

    Args:
        rule: whose φ is taken over, in float64, as it is now.
    """

    def __init__(self, rule: OptimizerNetwork) -> None:
        self.rule = rule
        self.scale_free = bool(getattr(rule, "scale_free", False))
        linear = [layer for layer in rule.mlp if isinstance(layer, nn.Linear)]
        self.layers = [(numbers_of(layer.weight), numbers_of(layer.bias)) for layer in linear]

    def __call__(self, step: int, names: Iterable[str], loss: float, size: GradientSize, memory: Memory) -> Answer:
        """The answer of step s.

        Args:
            step: s.
            names: of the parameters to answer for.
            loss: L_s.
            size: of the gradients.
            memory: what the answer before left, or the rule's state at the start.
        """
        rule = self.rule
        log_loss = 0.0 if self.scale_free else math.log10(min(max(loss, 1e-8), 1e8))
        left: dict[str, float | list[float]] = {}
        if self.scale_free:
            share = max(1 - DECAY, 1 / (step + 1))
            mean, before = size.square_sum / max(size.elements, 1), _number(memory, GRADIENT_SQUARE)
            left[GRADIENT_SQUARE] = before + share * (mean - before)
        if "trend" in rule.inputs:
            average = _number(memory, AVERAGE)
            left[AVERAGE] = SMOOTHING * average + (1 - SMOOTHING) * log_loss
        history = _history(step, loss, memory) if any(name in rule.inputs for name in RELATIVE) else None
        if history is not None:
            left |= history[2]
        x = np.array([self._feature(name, step, size, log_loss, memory, left, history) for name in rule.inputs])
        for weight, bias in self.layers[:-1]:
            x = np.tanh(weight @ x + bias)
        weight, bias = self.layers[-1]
        log_factors, shifts = (weight @ x + bias).reshape(2, -1)
        scheduled = rule.learning_rate * schedule_factor(rule.schedule, step, rule.total_steps)
        # of any weights and features the answer is a number that a step can be made with
        etas = (scheduled * np.exp(np.minimum(log_factors, 80.0))).tolist()
        mus = (0.5 + 0.5 * np.tanh(0.5 * (shifts + math.log(rule.momentum / (1 - rule.momentum))))).tolist()
        if not rule.per_layer:
            [eta], [mu] = etas, mus
            own = {"learning_rate": eta, "momentum": mu, **left}
            return Answer(dict.fromkeys(names, eta), dict.fromkeys(names, mu), own)
        rates, momenta = (dict(zip(rule.names, figures, strict=True)) for figures in (etas, mus))
        return Answer(rates, momenta, {"learning_rate": etas, "momentum": mus, **left})

    def _feature(
        self,
        name: Input,
        step: int,
        size: GradientSize,
        log_loss: float,
        memory: Memory,
        left: dict[str, float | list[float]],
        history: tuple[float, float, dict[str, float]] | None,
    ) -> float:
        """As ``OptimizerNetwork.read`` has it."""
        if name == "loss":
            return (log_loss + 1) / 3
        if name == "step":
            return math.log1p(step)
        if name == "gradient_norm":
            usual = _number(left, GRADIENT_SQUARE) * size.elements if self.scale_free else 1.0
            return 0.5 * math.log10(size.square_sum / usual + 1e-16) if usual > 0 else 0.0
        if name == "trend":
            return log_loss - _number(memory, AVERAGE) / (1 - SMOOTHING**step) if step else 0.0
        if history is not None and name in RELATIVE:
            level, trend, _ = history
            return level if name == "relative_loss" else trend
        return min(step / self.rule.total_steps, 1.0)


def _history(step: int, loss: float, memory: Memory) -> tuple[float, float, dict[str, float]]:
    before = {key: _number(memory, key) for key in KEYS if key in memory}
    return read_number(step, loss, before or {key: float(t) for key, t in empty_history(torch.empty(())).items()})


def _number(memory: Memory, key: str) -> float:
    value = memory.get(key, 0.0)
    return float(value) if isinstance(value, Tensor | float | int) else float(value[0])


def numbers_of(weights: Tensor) -> NDArray[np.float64]:
    """The weights in float64, for NumPy, which knows no bfloat16."""
    return weights.detach().cpu().double().numpy()
