"""Meta-curvature: the gradient of each tensor, multiplied by learned matrices along each of its modes."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from metasgd.errors import raise_problems
from metasgd.rules.base import Coefficients, Params, State, Steps, key_of, without_autocast
from metasgd.rules.initial_values import Bounds, Start
from metasgd.rules.learned_rates import LearnedRates

Mode = Literal["output", "input", "kernel"]
MODES: tuple[Mode, ...] = get_args(Mode)


class MetaCurvature(LearnedRates):
    """Meta-curvature: learned matrices over output channels, input channels and kernel positions.

    ``g' = g_s ×₁ M_out ×₂ M_in ×₃ M_kernel,  θ_{s+1} = θ_s − η g'``

    where ``g ×_k M`` multiplies the k-th mode of g by M: ``g'[o, i, k] = Σ M_out[o, a] M_in[i, b] M_kernel[k, c]
    g[a, b, c]``. A convolution's weight has all three modes, its kernel positions as one; a linear layer's weight has
    outputs and inputs; a vector has outputs. A mode of size 1 has no matrix, which would be a second rate: so the one
    row of a class-agnostic or prototype head serves any number of classes. All matrices start as the identity, and the
    rule as one rate for every tensor.

    The code published with the paper is ``vectors="elementwise"``. Its figures are those of MC2 in listings of the
    paper's results; in what MC1 is simpler was not found in what could be read, and ``modes`` has what could be meant.

    Args:
        init: where every η starts: a number, or ``[low, high]`` from which one number is drawn for all.
        learn_rates: learn η as well, one for each tensor; otherwise it stays at ``init``, as published.
        bounds: ``[low, high]`` that the rates are clipped to; none by default.
        modes: which of the modes have matrices: any of output, input and kernel.
        vectors: what multiplies a vector, such as a bias or the weights of a norm: a matrix over its outputs, or the
            diagonal of one, elementwise.

    Example:
        >>> rule = MetaCurvature(0.5)
        >>> rule.bind({"w": torch.zeros(2, 3)}, inner_steps=1)
        >>> sorted(name for name, _ in rule.named_parameters())
        ['eta.w', 'input.w', 'output.w']
        >>> with torch.no_grad():
        ...     _ = rule.output["w"].copy_(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
        >>> g = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 4.0]])
        >>> theta, _ = rule(0, {"w": torch.zeros(2, 3)}, {"w": g}, torch.zeros(()), {})
        >>> theta["w"].tolist()
        [[0.0, 0.0, -4.0], [-0.5, -1.0, -1.5]]

    References:
        Park and Oliva, Meta-Curvature, NeurIPS 2019 (arXiv 1902.03356).
    """

    def __init__(
        self,
        init: Start = 0.1,
        learn_rates: bool = True,
        bounds: Bounds = None,
        modes: Sequence[Mode] = MODES,
        vectors: Literal["matrix", "elementwise"] = "matrix",
    ) -> None:
        super().__init__(init, bounds)
        raise_problems(_unfit(modes, vectors))
        self.learn_rates, self.modes, self.vectors = learn_rates, tuple(modes), vectors
        self.output, self.input, self.kernel = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        self._shapes: dict[str, torch.Size] = {}

    def bind(self, params: Mapping[str, Tensor], inner_steps: int) -> None:
        super().bind(params, inner_steps)
        self.eta.requires_grad_(self.learn_rates)
        self._shapes = {n: p.shape for n, p in params.items()}
        for mode, matrices in enumerate((self.output, self.input, self.kernel)):
            for n, p in params.items():
                size = modes_of(p.shape)[mode]
                if size > 1 and MODES[mode] in self.modes:
                    matrix = torch.eye(size, dtype=p.dtype, device=p.device)
                    diagonal = p.ndim == 1 and self.vectors == "elementwise"
                    matrices[key_of(n)] = nn.Parameter(matrix.diagonal().clone() if diagonal else matrix)

    def serves(self) -> Mapping[str, torch.Size | None] | None:
        return self._shapes

    def learned_rates(self) -> dict[str, nn.Parameter]:
        return super().learned_rates() if self.learn_rates else {}

    def coefficients(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Coefficients:
        return Coefficients({n: self.eta[key_of(n)] for n in grads})

    def forward(self, step: Steps, params: Params, grads: Params, loss: Tensor, state: State) -> tuple[Params, State]:
        curved = {n: self._curved(key_of(n), g, loss.ndim) for n, g in grads.items()}
        return super().forward(step, params, curved, loss, state)

    def _curved(self, key: str, g: Tensor, lead: int) -> Tensor:
        """``g ×₁ M_out ×₂ M_in ×₃ M_kernel``, for every task in the first ``lead`` axes."""
        t = g.reshape(*g.shape[:lead], *modes_of(g.shape[lead:]))
        with without_autocast(g):
            if key in self.output and self.output[key].ndim == 1:
                diagonal: Tensor = self.output[key]
                return g * diagonal
            for matrices, product in (
                (self.output, "oa,...aik->...oik"),
                (self.input, "ib,...obk->...oik"),
                (self.kernel, "kc,...oic->...oik"),
            ):
                if key in matrices:
                    t = torch.einsum(product, matrices[key], t)
        return t.reshape(g.shape)


def modes_of(shape: torch.Size) -> tuple[int, int, int]:
    """Outputs, inputs and kernel positions of a tensor; 1 where it has none.

    Example:
        >>> [modes_of(torch.Size(s)) for s in ((), (8,), (8, 4), (8, 4, 3, 3))]
        [(1, 1, 1), (8, 1, 1), (8, 4, 1), (8, 4, 9)]
    """
    outputs, inputs, *kernel = (*shape, 1, 1) if len(shape) < 2 else shape
    return outputs, inputs, torch.Size(kernel).numel()


def _unfit(modes: Sequence[str], vectors: str) -> list[str]:
    problems = []
    if unknown := [mode for mode in modes if mode not in MODES]:
        problems.append(f"modes has {', '.join(map(str, unknown))}: any of {', '.join(MODES)} are allowed")
    if not modes:
        problems.append("modes is empty, and no matrix would be learned: give any of output, input and kernel")
    if vectors not in ("matrix", "elementwise"):
        problems.append(f"vectors is {vectors}: matrix and elementwise are allowed")
    return problems
