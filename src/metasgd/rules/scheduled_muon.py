"""The learned scheduler on orthogonal directions of matrices, with weight decay.

Shape letters: T tensors; lead is ``[]`` for one task and ``[B]`` for several.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metasgd.errors import raise_problems
from metasgd.rules.base import Params, State, Steps
from metasgd.rules.initial_values import outside
from metasgd.rules.orthogonal import is_orthogonalised, orthogonalised
from metasgd.rules.scheduled_adam import TINY, Answer, ScheduledAdam
from metasgd.rules.tensor_kinds import KINDS, kinds_and_inputs
from metasgd.rules.tensor_statistics import Statistics, inverse_root, means

A = "a."
"""A state's key for a tensor's alignment."""
INVARIANT = 0.03
"""The alignment below which a tensor's length counts as without influence; where it is random it is 0.8 on average."""
SIZE = 0.28
"""The root mean square of an orthogonal direction, where Adam's is about 1 at first and less later."""
STRETCH = 3.5
"""By how much longer steps of a tensor without influence of its length start."""
USUAL_STEPS, MOST_STEPS = 500, 10_000
"""Of the runs that η₀ is for, and up to which number of steps longer runs have lower rates."""
HEAD = 1.7
"""By how much longer those of heads start."""
LEAST, GROWTH = 3.0, 30.0
"""k of a head's bias: the least, and for each unit of its size."""
ROUNDING = 1e-5
"""The size of a head's bias's gradients, as a share of the largest of all tensors, below which they are rounding."""
VECTOR_DECAY = 0.3
"""The share of the weight decay that vectors start with; without any, networks learn the training set more closely."""


class ScheduledMuon(ScheduledAdam):
    """``ScheduledAdam`` whose matrices and kernels step along orthogonal directions, with weight decay.

    ``θ_{s+1} = (1 − η_s λ_kind) θ_s − η_s c k u``, where η, c, m and v are those of ``ScheduledAdam`` and

    - ``u = 0.28 √max(r, c) U Vᵀ`` of ``m = U S Vᵀ``, a matrix r × c as ``rules.orthogonal`` finds it: of layers that
      are neither embeddings nor heads, of shorter sides from 2 to 128. Of all others ``u = m̂ / √(v̂ + ε²)``.
    - ``k`` is learned for tensors whose length has no influence, as it is where a normalisation follows, and 1 for all
      others. Their gradients are orthogonal to them: the alignment ``|⟨θ, g⟩| √n / (‖θ‖ ‖g‖)`` of n entries, averaged
      over the last steps, is below 0.03 where it would be 0.8 at random. Of a head's bias
      ``k = max(3, 30 ‖θ‖ / √n)``: the mean of what is to be predicted is there, however large, and is soon reached.
      Where the loss does not see it, and its gradients are rounding (``√mean(v̂)`` below 1e-5 of the largest of all
      tensors), it is a vector as others are: it would grow without end. Of a head's matrix ``k`` is at least
      ``‖θ‖ / (c √n) − 1``: the steps to large targets grow with it.
    - ``λ_kind`` is learned for each kind of tensor, and 0 for a head's bias and where there is no gradient.
    - ``η₀`` counts times ``√(500 / steps)`` in runs of 500 to 10,000 steps, and times 0.22 in longer ones.

    Args:
        learning_rate: η₀, above 0.
        momentum: μ₀, above 0 and below 1.
        weight_decay: λ that all kinds start from, vectors from 0.3 of it; at least 0.
        hidden: width of the hidden layer of each network.

    Raises:
        UserError: an argument is out of its range.

    Example:
        >>> rule, theta = ScheduledMuon(weight_decay=0.0), {"w": torch.zeros(2, 3)}
        >>> rule.bind(theta, inner_steps=10)
        >>> grads = {"w": torch.tensor([[1.0, 0.0, 0.0], [0.0, 9.0, 0.0]])}
        >>> with torch.no_grad():
        ...     theta, _ = rule(0, theta, grads, torch.tensor(5.0), rule.init_state(theta))
        >>> [round(x, 3) for x in torch.linalg.svdvals(theta["w"]).tolist()]  # the small one counts as well
        [0.04, 0.038]

    References:
        Jordan et al. 2024: Muon, https://kellerjordan.github.io/posts/muon
    """

    fixed: tuple[str, ...] = ("learning_rate", "momentum", "weight_decay")

    def __init__(
        self, learning_rate: float = 0.13, momentum: float = 0.87, weight_decay: float = 0.03, hidden: int = 16
    ) -> None:
        super().__init__(learning_rate, momentum, hidden)
        if weight_decay != 0:
            raise_problems(outside("weight_decay", weight_decay, 0, math.inf))
        self.weight_decay = weight_decay
        heads = torch.tensor([kind == "head" for kind in KINDS])
        self.log_scale = nn.Parameter(self.log_scale.detach() + math.log(HEAD) * heads)
        vectors = torch.tensor([kind == "vector" for kind in KINDS])
        self.log_decay = nn.Parameter(math.log(VECTOR_DECAY) * vectors.double())
        self.log_stretch = nn.Parameter(torch.tensor(math.log(STRETCH), dtype=torch.float64))

    def init_state(self, params: Params) -> State:
        state = super().init_state(params)
        zero = next(iter(params.values()), self.exponent).new_zeros(())
        return state | {A + n: zero for n in params}

    def squares_entries(self, kind: str, shape: torch.Size) -> bool:
        return not steps_orthogonally(kind, shape)  # where v has no part in the direction

    def measure(self, of: Statistics, params: Params, grads: Params, state: State) -> tuple[Statistics, State]:
        lead = of.weights.ndim - 1
        product = means((params[n] * g for n, g in grads.items()), lead)
        roots = product.new_tensor([math.sqrt(g.shape[lead:].numel()) for g in grads.values()])
        squares = of.weights * of.gradient
        # weights of zero point nowhere yet
        now = torch.where(squares > 0, product.abs() * roots * inverse_root(squares), 1.0)
        before = torch.stack([state[A + n] for n in grads], dim=-1)
        share = torch.where(of.gradient > 0, 1 / (of.seen + 1), 0.0)
        found = torch.lerp(before, now, share)
        measured = {A + n: t for n, t in zip(grads, found.unbind(dim=-1), strict=True)}
        return of._replace(alignment=found), measured

    def progress(self, step: Steps, like: Tensor) -> tuple[Tensor, Tensor]:
        factor, read = super().progress(step, like)
        total = torch.as_tensor(self.total_steps, dtype=like.dtype, device=like.device)
        return factor * (USUAL_STEPS / total.clamp(USUAL_STEPS, MOST_STEPS)).sqrt(), read

    def answer(
        self, step: Steps, shapes: Mapping[str, torch.Size], loss: Tensor, history: State, of: Statistics
    ) -> tuple[Answer, State]:
        answer, history = super().answer(step, shapes, loss, history, of)
        tensors = self.kinds(shapes)
        kinds, _ = kinds_and_inputs(tensors, shapes, self.exponent)
        given = answer.rates.dtype
        decay = answer.rates * self.weight_decay * (self.log_decay @ kinds.T).exp().to(given)
        assert of.alignment is not None
        matrices = torch.tensor([len(shape) > 1 for shape in shapes.values()], device=kinds.device)
        heads = torch.tensor([n in tensors.head_biases for n in shapes], device=kinds.device)
        biases = heads & (of.average > ROUNDING**2 * of.average.nan_to_num(0.0).amax(dim=-1, keepdim=True))
        invariant = matrices & (of.alignment < INVARIANT)
        stretch = (self.log_stretch.unsqueeze(-1) * invariant).exp().to(given)
        growing = (GROWTH**2 * of.weights).clamp_min(LEAST**2).sqrt()
        grown = of.weights.clamp_min(TINY).sqrt() / answer.scale - 1
        stretch = torch.where(kinds[:, KINDS.index("head")] > 0, torch.maximum(stretch, grown), stretch)
        scale = answer.scale * torch.where(biases, growing, stretch)
        # what has no gradient is no part of what is trained
        return answer._replace(scale=scale, decay=decay * (~biases & (of.gradient > 0))), history

    def direction(self, kind: str, shape: torch.Size, m: Tensor, square: Tensor, count: Tensor) -> Tensor:
        if not steps_orthogonally(kind, shape):
            return super().direction(kind, shape, m, square, count)
        matrix = m.reshape(*m.shape[: m.ndim - len(shape)], shape[0], -1)
        return orthogonalised(matrix).reshape(m.shape) * (SIZE * count)


def steps_orthogonally(kind: str, shape: torch.Size) -> bool:
    """Whether a tensor is a layer's matrix or kernel, and neither an embedding nor a head nor too large."""
    return kind in ("matrix", "convolution") and is_orthogonalised(shape)
