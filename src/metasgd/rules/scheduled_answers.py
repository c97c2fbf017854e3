"""What ``ScheduledAdam`` answers to one loss, in numbers of NumPy: an optimizer's step is short."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasgd.rules.answers import numbers_of
from metasgd.rules.initial_values import logit
from metasgd.rules.loss_history import KEYS, read_number
from metasgd.rules.schedule import schedule_factor
from metasgd.rules.scheduled_adam import TINY, ScheduledAdam
from metasgd.rules.scheduled_muon import GROWTH, INVARIANT, LEAST, MOST_STEPS, ROUNDING, USUAL_STEPS, ScheduledMuon
from metasgd.rules.tensor_kinds import KINDS, kinds_and_inputs

Array = NDArray[np.float64]
Shapes = Mapping[str, torch.Size]
Memory = dict[str, Tensor | float | list[float]]


class Statistics(NamedTuple):
    """``scheduled_adam.Statistics`` of one training, ``[T]``."""

    weights: Array
    gradient: Array
    momentum: Array
    product: Array
    average: Array
    seen: Array
    update: Array
    alignment: Array | None = None


def joined(parts: Sequence[Statistics]) -> Statistics:
    """Those of all tensors, from those of some each."""
    of_all = (None if of_parts[0] is None else np.concatenate(of_parts) for of_parts in zip(*parts, strict=True))
    return Statistics(*of_all)  # type: ignore[arg-type] # the last alone may be None


class Numbers(NamedTuple):
    """η, μ, c and the share of the weights to take away, of each tensor ``[T]``; and the history of the losses."""

    rates: Array
    momenta: Array
    scale: Array
    decay: Array | None
    history: dict[str, float]


class ScheduledAnswers:
    """``ScheduledAdam.answer`` in float64, of one training, at a fraction of the time.

    Attributes:
        reads_tensors: whether what is read of a tensor counts; where the last layer is zero, as at the start, nothing.

    Args:
        rule: whose φ is taken over as it is now.
    """

    def __init__(self, rule: ScheduledAdam) -> None:
        self.rule = rule
        self.of_all, self.of_tensor = (
            [numbers_of(p) for p in net.parameters()] for net in (rule.of_all, rule.of_tensor)
        )
        self.reads_tensors = bool(self.of_tensor[2].any())
        self._shapes: Shapes = {}
        self._known = rule.tensors
        self._decay: Array | None = None
        self._stretch = 1.0
        self._matrices, self._biases, self._heads = (np.zeros(0, dtype=bool) for _ in range(3))
        self._kinds, self._inputs, self._scale = np.zeros((0, 0)), np.zeros(0), np.zeros(0)

    def __call__(self, step: int, shapes: Shapes, loss: float, memory: Memory, of: Statistics) -> Numbers:
        """The answer of step s.

        Args:
            step: s.
            shapes: of each tensor, by name.
            loss: L_s.
            memory: the history of the losses, by ``loss_history.KEYS``.
            of: the tensors as they are before the step; v with this step's gradient.
        """
        if shapes != self._shapes or self.rule.tensors is not self._known:
            self._look_at(shapes)
        rule, total = self.rule, self.rule.total_steps
        level, trend, history = read_number(step, loss, {key: float(memory[key]) for key in KEYS})  # type: ignore[arg-type]
        done = min(step / total, 1.0)
        x = np.array(
            [
                *(level, trend, 2 * done - 1, math.sin(math.pi * done), math.tanh(20 * done)),
                *(
                    math.tanh(20 * (1 - done)),
                    math.log10(total) - 3,
                    max(-4.0, min(0.0, math.log10((step + 1) / total))) / 2,
                ),
            ]
        )
        norms = np.sqrt(of.gradient) * np.sqrt(of.momentum)
        cosine = np.divide(of.product, norms, out=np.zeros_like(norms), where=norms > 0)
        ratio = of.momentum / np.maximum(of.seen, 1) ** 2
        steady = np.divide(ratio, of.average, out=np.zeros_like(ratio), where=of.average > 0)
        logs = np.log10([of.weights + TINY, (of.update + TINY) / (of.weights + TINY), steady + 1e-6])
        z = np.concatenate([self._inputs[None] / 2, 0.25 * logs, cosine[None], self._kinds])
        weight, bias, last, last_bias = self.of_tensor
        hidden = np.tanh((weight[:, : len(x)] @ x + bias)[:, None] + weight[:, len(x) :] @ z)
        log_factor, shift = last @ hidden + (last_bias + _answer(self.of_all, x))[:, None]
        # of any weights and inputs the answer is a number that a step can be made with
        rates = rule.learning_rate * schedule_factor(rule.schedule, step, total) * np.exp(np.minimum(log_factor, 80.0))
        if isinstance(rule, ScheduledMuon):
            rates *= math.sqrt(USUAL_STEPS / min(max(total, USUAL_STEPS), MOST_STEPS))
        momenta = 0.5 + 0.5 * np.tanh(0.5 * (shift + logit(rule.momentum)))
        if of.alignment is None or self._decay is None:
            return Numbers(rates, momenta, self._scale, None, history)
        stretch = np.where(self._matrices & (of.alignment < INVARIANT), self._stretch, 1.0)
        grown = np.sqrt(of.weights) / self._scale - 1
        stretch = np.where(self._heads, np.maximum(stretch, grown), stretch)
        biases = self._biases & (of.average > ROUNDING**2 * of.average.max())
        stretch[biases] = np.maximum(LEAST, GROWTH * np.sqrt(of.weights[biases]))
        decaying = ~biases & (of.gradient > 0)  # what has no gradient is no part of what is trained
        return Numbers(rates, momenta, self._scale * stretch, rates * self._decay * decaying, history)

    def _look_at(self, shapes: Shapes) -> None:
        self._known, tensors = self.rule.tensors, self.rule.kinds(shapes)
        read = kinds_and_inputs(tensors, shapes, torch.empty(0, dtype=torch.float64))
        kinds, inputs = (numbers_of(t) for t in read)
        exponent, log_scale = numbers_of(self.rule.exponent), numbers_of(self.rule.log_scale)
        self._shapes, self._kinds, self._inputs = dict(shapes), kinds.T, inputs
        self._scale = np.exp(kinds @ log_scale - math.log(10) * (kinds @ exponent) * inputs)
        if isinstance(self.rule, ScheduledMuon):
            self._biases = np.array([n in tensors.head_biases for n in shapes])
            self._decay = self.rule.weight_decay * np.exp(kinds @ numbers_of(self.rule.log_decay))
            self._stretch = float(self.rule.log_stretch.exp())
            self._heads = self._kinds[KINDS.index("head")] > 0
            self._matrices = np.array([len(shape) > 1 for shape in shapes.values()])


def _answer(network: list[Array], x: Array) -> Array:
    weight, bias, last, last_bias = network
    found: Array = last @ np.tanh(weight @ x + bias) + last_bias
    return found
