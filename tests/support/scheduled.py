"""The learned schedulers' equations for one task, tensor by tensor, and a small network of every kind of tensor."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metasgd.rules.scheduled_adam import ScheduledAdam
from metasgd.rules.scheduled_muon import SIZE, ScheduledMuon
from metasgd.rules.tensor_kinds import KINDS

STEPS = 12


def learned(
    network: nn.Module, rule: ScheduledAdam | None = None, steps: int = STEPS, learning_rate: float = 0.02
) -> ScheduledAdam:
    """A rule whose φ has moved away from its start, so that every input matters."""
    torch.manual_seed(1)
    rule = ScheduledAdam(learning_rate, 0.8, hidden=5) if rule is None else rule
    rule.bind(dict(network.named_parameters()), steps)
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return rule


def mean_square(t: Tensor) -> Tensor:
    found: Tensor = (t * t).sum() / t.numel()
    return found


def by_singular_values(m: Tensor, iterations: int = 2) -> Tensor:
    """The polynomial of Newton–Schulz on the singular values, which the matrix's products amount to."""
    u, s, v = torch.linalg.svd(m, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(iterations):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    found: Tensor = math.sqrt(max(m.shape)) * (u @ torch.diag(s) @ v)
    return found


def from_the_right(m: Tensor, iterations: int = 2) -> Tensor:
    """The same by products from the other side: singular vectors of singular values of zero have no derivative."""
    x = m / m.square().sum().sqrt()
    one = torch.eye(m.shape[1], dtype=m.dtype)
    for _ in range(iterations):
        x = x @ (3.4445 * one - 4.7750 * x.T @ x + 2.0315 * x.T @ x @ x.T @ x)
    return math.sqrt(max(m.shape)) * x


def by_equation(
    rule: ScheduledAdam, total: int, kinds: dict[str, tuple[str, int]], orthogonal: tuple[str, ...] = ()
) -> Callable[..., Any]:
    """The rule's equation for one task, tensor by tensor, with the networks written out.

    Args:
        rule: whose φ it is.
        total: steps of the run.
        kinds: of each tensor, its kind and its inputs, by name.
        orthogonal: the tensors that step along orthogonal directions.
    """
    a1, b1, a2, b2 = rule.of_all.parameters()
    c1, d1, c2, d2 = rule.of_tensor.parameters()
    muon = rule if isinstance(rule, ScheduledMuon) else None

    def step(s: int, p: dict[str, Tensor], g: dict[str, Tensor], loss: Tensor, state: dict[str, Any]) -> Any:
        if not state:
            state = {"losses": [], "fasts": []}
            for n, t in p.items():
                zero = torch.zeros((), dtype=t.dtype)
                of_rows = (zero, zero) if n in orthogonal else (torch.zeros_like(t), t.new_zeros(len(t)))
                state[n] = (torch.zeros_like(t), *of_rows, zero, zero, zero)
        losses = [*state["losses"], loss]
        fast = slow = torch.zeros((), dtype=loss.dtype)
        fasts = []
        for k, value in enumerate(losses):
            fast = fast + max(0.1, 1 / (k + 1)) * (value - fast)
            slow = slow + max(0.01, 1 / (k + 1)) * (value - slow)
            fasts.append(fast)
        low, high = min(fasts), max(fasts)
        level = (fast - low) / (high - low) if high > low else torch.zeros_like(loss)
        trend = ((fast - slow) / (high - low)).clamp(-1, 1) if high > low else torch.zeros_like(loss)
        done = s / total
        numbers = [2 * done - 1, math.sin(math.pi * done), math.tanh(20 * done), math.tanh(20 * (1 - done))]
        numbers += [math.log10(total) - 3, max(-4, math.log10((s + 1) / total)) / 2]
        x = torch.stack([level, trend, *torch.tensor(numbers, dtype=loss.dtype)])
        of_all = a2 @ torch.tanh(a1 @ x + b1) + b2
        warm = min(1.0, (s + 1) / max(1, 0.05 * total), (total - s) / max(1, 0.3 * total))
        new: dict[str, Any] = {"losses": losses}
        moved = {}
        for n, t in p.items():
            m, v, w, count, last, aligned = state[n]
            kind, inputs = kinds[n]
            if n in orthogonal:
                w = w + 0.01 * (1 - w)
                v = v + 0.01 * (mean_square(g[n]) - v)
                v_hat = (v / w).expand_as(t)
            else:
                # of a row without a gradient 0
                share = 0.01 * torch.stack([(row != 0).any() for row in g[n]]).to(t.dtype)
                w = w + share * (1 - w)
                share = share.reshape(-1, *[1] * (t.ndim - 1))
                v = v + share * (g[n] ** 2 - v)
                v_hat = v / w.clamp_min(0.01).reshape(share.shape)
            size, ratio = mean_square(t) + 1e-12, (last + 1e-12) / (mean_square(t) + 1e-12)
            steady = mean_square(m) / count.clamp_min(1) ** 2 / (v_hat.sum() / v_hat.numel())
            norms = (mean_square(g[n]) * mean_square(m)) ** 0.5 if s else torch.ones_like(loss)
            cosine = (g[n] * m).sum() / t.numel() / norms
            z = torch.stack(
                [
                    torch.tensor(math.log10(inputs) / 2, dtype=loss.dtype),
                    torch.log10(size) / 4,
                    torch.log10(ratio) / 4,
                    torch.log10(steady + 1e-6) / 4,
                    cosine,
                ]
            )
            one_hot = torch.tensor([float(k == kind) for k in KINDS], dtype=loss.dtype)
            own = c2 @ torch.tanh(c1 @ torch.cat([x, z, one_hot]) + d1) + d2
            eta = rule.learning_rate * warm * torch.exp(of_all[0] + own[0])
            mu = 1 / (1 + (1 / rule.momentum - 1) * torch.exp(-of_all[1] - own[1]))
            c = torch.exp(rule.log_scale[KINDS.index(kind)]) * inputs ** -rule.exponent[KINDS.index(kind)]
            taken = torch.zeros_like(loss)
            if muon is not None:
                eta = eta * (500 / min(max(total, 500), 10_000)) ** 0.5
                now = (t * g[n]).sum().abs() * t.numel() ** 0.5 / (t.norm() * g[n].norm())
                aligned = aligned + (now - aligned) / (count + 1)
                usual = c
                if t.ndim > 1 and aligned < 0.03:
                    c = c * torch.exp(muon.log_stretch)
                if kind == "head":
                    c = torch.maximum(c, mean_square(t) ** 0.5 - usual)
                taken = eta * muon.weight_decay * torch.exp(muon.log_decay[KINDS.index(kind)])
                if n == "head.bias":
                    c, taken = c * (30 * mean_square(t) ** 0.5).clamp_min(3), torch.zeros_like(loss)
            m, count = mu * m + g[n], mu * count + 1
            if n in orthogonal:
                change = eta * c * SIZE * from_the_right(m.flatten(1)).reshape(m.shape)
            else:
                change = eta * c * (m / count) / (v_hat + 1e-8 * v_hat.sum() / v_hat.numel()) ** 0.5
            moved[n] = (1 - taken) * t - change
            new[n] = (m, v, w, count, mean_square(change), aligned)
        return moved, new

    return step


def regression(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Forty rows of six numbers, and what is to be said of them."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, 6, generator=generator, dtype=dtype)
    return x, (x[:, :1] * x[:, 1:2]).tanh() + 0.1 * torch.randn(40, 1, generator=generator, dtype=dtype)


class EveryKind(nn.Module):
    """A table of which some rows are seen late, a kernel, a matrix, a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 6)
        self.kernel = nn.Conv1d(1, 3, 3)
        self.matrix = nn.Linear(12, 5)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 1)

    def forward(self, x: Tensor, symbols: Tensor) -> Tensor:
        x = x + self.embedding(symbols)
        outputs: Tensor = self.head(self.norm(self.matrix(self.kernel(x[:, None]).flatten(1)).tanh()))
        return outputs


def every_kind(dtype: torch.dtype = torch.float64) -> EveryKind:
    """The network, of the same weights each time."""
    torch.manual_seed(0)
    return EveryKind().to(dtype)


def symbols_of(step: int, n: int) -> Tensor:
    """Those of a step: two of the four come from the fifth step on."""
    return (torch.arange(n) + step) % (2 if step < 4 else 4)


def trained(
    network: nn.Module, optimizer: Any, steps: int = STEPS, unit: float = 1.0, zero: float = 0.0
) -> list[float]:
    """The losses of a training, in which the optimizer meets them times ``unit``, plus ``zero``."""
    x, y = regression(next(network.parameters()).dtype)
    losses = []
    for s in range(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(network(x, symbols_of(s, len(x))), y)
        (unit * loss).backward()  # type: ignore[no-untyped-call]
        optimizer.step(loss=unit * loss.item() + zero)
        losses.append(loss.item())
    return losses


def trained_by_the_rule(network: nn.Module, rule: ScheduledAdam, steps: int = STEPS) -> dict[str, Tensor]:
    """The weights after as many steps of the rule as the inner loop calls it."""
    params = {n: p.detach() for n, p in network.named_parameters()}
    state = rule.init_state(params)
    x, y = regression()
    for s in range(steps):
        leaves = {n: p.requires_grad_() for n, p in params.items()}
        loss = F.mse_loss(torch.func.functional_call(network, leaves, (x, symbols_of(s, len(x)))), y)
        grads = dict(zip(leaves, torch.autograd.grad(loss, [*leaves.values()]), strict=True))
        params, state = rule(s, params, grads, loss, state)
        params = {n: p.detach() for n, p in params.items()}
        state = {n: t.detach() for n, t in state.items()}
    return params
