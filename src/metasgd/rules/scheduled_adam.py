"""Adam with a learned scheduler: rates and momenta by how the training stands, for each tensor.

Shape letters: T tensors; lead is ``[]`` for one task and ``[B]`` for several.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metasgd.errors import raise_problems, too_small
from metasgd.rules.base import M, Params, State, Steps, UpdateRule, beside, no_momentum, without_autocast
from metasgd.rules.initial_values import logit, outside
from metasgd.rules.loss_history import KEYS, empty_history, read_loss
from metasgd.rules.scaled_network import OF_A_VECTOR, RELATIVE_SMALLEST, V, W
from metasgd.rules.schedule import Schedule, schedule_factor
from metasgd.rules.tensor_kinds import KINDS, TensorKinds, kinds_and_inputs, kinds_of
from metasgd.rules.tensor_statistics import Statistics, inverse_root, means, square_averages

TINY = 1e-12
"""A mean square of weights or updates that counts as none."""
N, U = "n.", "u."
"""A state's keys for how much of the momentum has been seen, and for the last update's mean square."""
OF_ALL, OF_TENSOR = 8, 5
"""What is read of the training, and of each tensor beside its kind."""
INPUTS_OF_A_UNIT = 0.5
"""The exponent a that matrices, kernels and heads start from."""


class Answer(NamedTuple):
    """η and μ of each tensor, ``[*lead, T]``, and the factor c of its kind, ``[T]``; ``[B, T]`` where φ is stacked.

    ``decay`` is the share of the weights that the step takes away, likewise; None for a rule without.
    """

    rates: Tensor
    momenta: Tensor
    scale: Tensor
    decay: Tensor | None = None


class ScheduledAdam(UpdateRule):
    """Adam whose rates and momenta small networks φ answer, for every tensor and step.

    ``m_{s+1} = μ_s m_s + g_s,  θ_{s+1} = θ_s − η_s c m̂ / √(v̂ + ε²)``

    with ``m̂`` and ``v̂`` the weighted means of g and g² that m and v stand for (v with β₂ = 0.99 and row by row, over
    the steps in which a row has a gradient), and ``ε² = 1e-8 mean(v̂)`` of the tensor. Of a tensor with n inputs to a
    unit, ``c = b_kind n^(−a_kind)`` with a and b learned for each of ``tensor_kinds.KINDS``. And

    ``η_s = η₀ t(s) exp(o_all(x)) exp(o_own(x, z)),   μ_s = σ(σ⁻¹(μ₀) + o'_all(x) + o'_own(x, z))``

    where t rises over the first 5 % of all steps and falls to zero over the last 30 %, and the two networks' last
    layers start at zero: untrained, this is Adam with that schedule. They read

    - x, of the training: how the losses compare with one another (``rules.loss_history``, the same for a L + b), how
      much is done, and the logarithm of all steps;
    - z, of the tensor: its kind, log n, the logarithms of its weights' size, of the last update's size relative to
      that, and of ``mean(m̂²) / mean(v̂)``, and cos(g, m).

    A loss or gradients in another unit change none of it.

    Args:
        learning_rate: η₀, above 0; the largest step of a weight relative to ``b n^(−a)``.
        momentum: μ₀, above 0 and below 1.
        hidden: width of the hidden layer of each network.

    Raises:
        UserError: an argument is out of its range.

    Example:
        >>> rule = ScheduledAdam(learning_rate=0.01)
        >>> rule.bind({"w": torch.zeros(1, 4)}, inner_steps=3)
        >>> theta, grads = {"w": torch.zeros(1, 4)}, {"w": torch.tensor([[3.0, -2.0, 1.0, 0.0]])}
        >>> theta, _ = rule(0, theta, grads, torch.tensor(5.0), rule.init_state(theta))
        >>> [round(x, 4) for x in theta["w"].flatten().tolist()]  # −η₀ sign(g) / √inputs
        [-0.005, 0.005, -0.005, 0.0]

    References:
        Kingma and Ba, Adam, 2015 (arXiv 1412.6980); Moudgil et al., Celo, 2025 (arXiv 2501.12670).
    """

    fixed: tuple[str, ...] = ("learning_rate", "momentum")
    reads_progress = True
    reads_names = True
    takes_stacks = True
    schedule: Schedule = "trapezoid"

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.9, hidden: int = 16) -> None:
        super().__init__()
        problems = outside("learning_rate", learning_rate, 0, math.inf) + outside("momentum", momentum, 0, 1)
        raise_problems(problems + too_small(("hidden", hidden, 1)))
        self.learning_rate, self.momentum, self.hidden = learning_rate, momentum, hidden
        self.of_all, self.of_tensor = nn.Sequential(), nn.Sequential()
        vectors = torch.tensor([kind in ("vector", "embedding") for kind in KINDS])
        self.look_at({})
        self.exponent = nn.Parameter(torch.where(vectors, 0.0, INPUTS_OF_A_UNIT).double())
        self.log_scale = nn.Parameter(math.log(OF_A_VECTOR) * vectors.double())  # in bind of the weights' type

    def bind(self, params: Mapping[str, Tensor], inner_steps: int) -> None:
        super().bind(params, inner_steps)
        self.look_at({n: p.shape for n, p in params.items()})
        self.of_all = _network(OF_ALL, self.hidden)
        self.of_tensor = _network(OF_ALL + OF_TENSOR + len(KINDS), self.hidden)
        dtype = next(iter(params.values())).dtype
        self.to(torch.promote_types(dtype.to_real(), torch.float32))  # squares of half precision vanish

    def look_at(self, shapes: Mapping[str, torch.Size]) -> None:
        self.shapes, self.tensors = dict(shapes), TensorKinds(shapes)

    def kinds(self, shapes: Mapping[str, torch.Size]) -> TensorKinds:
        """Of the tensors of a step: those that it has looked at, or of another network."""
        own = all(self.shapes.get(n) == shape for n, shape in shapes.items())
        return self.tensors if own else kinds_of(tuple(shapes.items()))

    def init_state(self, params: Params) -> State:
        zero = next(iter(params.values()), self.exponent).new_zeros(())
        state = no_momentum(params) | empty_history(zero)
        shapes = {n: p.shape[p.ndim - len(self.shapes.get(n, p.shape)) :] for n, p in params.items()}
        kinds = self.kinds(shapes)
        for n, p in params.items():
            lead = p.ndim - len(shapes[n])
            if self.squares_entries(kinds.of(n), shapes[n]):
                squares = {V + n: torch.zeros_like(p), W + n: p.new_zeros(p.shape[: lead + 1])}
            else:
                squares = {part + n: p.new_zeros(p.shape[:lead]) for part in (V, W)}
            state |= squares | {N + n: zero, U + n: zero}
        return state

    def progress(self, step: Steps, like: Tensor) -> tuple[Tensor, Tensor]:
        """``(t(s), [*lead, 6])``: the schedule, and what is read of how much is done."""
        s = torch.as_tensor(step, dtype=like.dtype, device=like.device).expand_as(like)
        total = torch.as_tensor(self.total_steps, dtype=like.dtype, device=like.device).expand_as(like)
        factor: Tensor = schedule_factor(self.schedule, s, total)  # type: ignore[assignment] # of a tensor
        done = (s / total).clamp(0, 1)
        read = (
            *(2 * done - 1, torch.sin(math.pi * done), torch.tanh(20 * done), torch.tanh(20 * (1 - done))),
            *(total.log10() - 3, ((s + 1) / total).log10().clamp(-4, 0) / 2),
        )
        return factor, torch.stack(read, dim=-1)

    def answer(
        self, step: Steps, shapes: Mapping[str, torch.Size], loss: Tensor, history: State, of: Statistics
    ) -> tuple[Answer, State]:
        """What the networks answer, and the history of the losses with this one.

        Args:
            step: s, one number or one of each task.
            shapes: of each tensor, by name.
            loss: L_s, of shape lead.
            history: of the losses before, by ``loss_history.KEYS``.
            of: the tensors as they are before the step; v with this step's gradient.
        """
        given, loss = of.weights.dtype, loss.to(self.exponent.dtype)
        seen = read_loss(step, loss, {key: t.to(loss) for key, t in history.items()})
        of = Statistics(*(None if t is None else t.to(loss) for t in of))  # type: ignore[arg-type] # the last may be
        factor, done = self.progress(step, loss)
        kinds, inputs = kinds_and_inputs(self.kinds(shapes), shapes, self.exponent)
        x = torch.cat([torch.stack([seen.level, seen.trend], dim=-1), done], dim=-1)
        cosine = of.product * inverse_root(of.gradient) * inverse_root(of.momentum)
        average = torch.where(of.average > 0, of.average, 1.0)
        steady = torch.where(of.average > 0, of.momentum / of.seen.clamp_min(1).square() / average, 0.0)
        read = (
            *(inputs.expand_as(of.weights) / 2, 0.25 * (of.weights + TINY).log10()),
            *(0.25 * ((of.update + TINY) / (of.weights + TINY)).log10(), 0.25 * (steady + 1e-6).log10(), cosine),
        )
        z = torch.stack(read, dim=-1)
        own = torch.cat([x.unsqueeze(-2).expand(*z.shape[:-1], OF_ALL), z, kinds.expand(*z.shape[:-1], -1)], dim=-1)
        of_all, of_tensor = _answers(self.of_all, x.unsqueeze(-2)), _answers(self.of_tensor, own)
        log_factor, shift = (of_all + of_tensor).unbind(dim=-1)
        rates = self.learning_rate * factor.unsqueeze(-1) * log_factor.exp()
        scale = (self.log_scale @ kinds.T - math.log(10) * (self.exponent @ kinds.T) * inputs).exp()
        momenta = torch.sigmoid(shift + logit(self.momentum))
        return Answer(rates.to(given), momenta.to(given), scale.to(given)), seen.state

    def forward(self, step: Steps, params: Params, grads: Params, loss: Tensor, state: State) -> tuple[Params, State]:
        with without_autocast(loss):
            return self._stepped(step, params, grads, loss, state)

    def _stepped(self, step: Steps, params: Params, grads: Params, loss: Tensor, state: State) -> tuple[Params, State]:
        lead = loss.ndim
        gradient = means((g * g for g in grads.values()), lead)
        m, v, w = ({n: state[part + n] for n in grads} for part in (M, V, W))
        v, w, averages = square_averages(v, w, grads, gradient, lead)
        new: State = {V + n: t for n, t in v.items()} | {W + n: t for n, t in w.items()}
        of = Statistics(
            weights=means((params[n] * params[n] for n in grads), lead),
            gradient=gradient,
            momentum=means((t * t for t in m.values()), lead),
            product=means((g * m[n] for n, g in grads.items()), lead),
            average=means(averages.values(), lead),
            seen=torch.stack([state[N + n] for n in grads], dim=-1),
            update=torch.stack([state[U + n] for n in grads], dim=-1),
        )
        of, measured = self.measure(of, params, grads, state)
        shapes = {n: g.shape[lead:] for n, g in grads.items()}
        answer, history = self.answer(step, shapes, loss, {k: state[k] for k in KEYS}, of)
        rates, momenta, scale, decay = answer
        counts = momenta * of.seen + 1
        sizes = rates * scale / counts
        # a derivative of 1/√0 would be infinite; where the mean is 0 so are v̂ and m
        smallest = torch.where(of.average > 0, RELATIVE_SMALLEST**2 * of.average, 1.0)
        changes, moved, kinds = {}, {}, self.kinds(shapes)
        for i, (n, g) in enumerate(grads.items()):
            new[M + n] = torch.addcmul(g, beside(momenta[..., i], g), m[n])
            square = averages[n] + beside(smallest[..., i], averages[n])
            changes[n] = self.direction(kinds.of(n), shapes[n], new[M + n], square, beside(counts[..., i], g))
            rest = params[n] if decay is None else params[n] * beside(1 - decay[..., i], g)
            moved[n] = torch.addcmul(rest, beside(sizes[..., i], g), changes[n], value=-1)
        updates = sizes * sizes * means((t * t for t in changes.values()), lead)
        for part, of_all in ((N, counts), (U, updates)):
            new |= {part + n: t for n, t in zip(grads, of_all.unbind(dim=-1), strict=True)}
        return moved, new | measured | history | {"learning_rate": rates, "momentum": momenta}

    def squares_entries(self, kind: str, shape: torch.Size) -> bool:
        """Whether v is the mean square gradient of each of a tensor's entries, and not that of all of them."""
        return True

    def measure(self, of: Statistics, params: Params, grads: Params, state: State) -> tuple[Statistics, State]:
        """What a rule reads beside; with what it remembers of it."""
        return of, {}

    def direction(self, kind: str, shape: torch.Size, m: Tensor, square: Tensor, count: Tensor) -> Tensor:
        """The direction of a tensor's step, times count.

        Args:
            kind: of the tensor.
            shape: its own, without that of the tasks.
            m: the sum of the gradients as the momentum has them.
            square: ``v̂ + ε²``; one number where v is of all entries.
            count: of how many gradients m is the sum.
        """
        del kind, shape, count
        return m * square.rsqrt()


def _network(inputs: int, hidden: int) -> nn.Sequential:
    last = nn.Linear(hidden, 2)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), last)


def _answers(network: nn.Sequential, x: Tensor) -> Tensor:
    """Of ``[*lead, T, inputs]``, by weights that are the same for all or stacked, ``[B, …]``."""
    weight, bias, last_weight, last_bias = network.parameters()
    hidden = torch.tanh(x @ weight.mT + bias.unsqueeze(-2))
    return hidden @ last_weight.mT + last_bias.unsqueeze(-2)
