"""Meta-SGD in one loop of your own: initial weights θ and a learning rate α for each of them, learned together.

Sinusoid regression from 5 points, one inner step (Li et al. 2017, section 4.1). Run it: about 20 seconds on a CPU.
"""

import torch
from torch import nn
from torch.func import functional_call


def curves(n_tasks: int, n_points: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """``x, y`` of shape ``[B, X, 1]``: points on ``y = A sin(ωx + b)``, with another A, ω and b in each task."""
    a, w, b = (low + (high - low) * torch.rand(n_tasks, 1, 1, generator=generator)
               for low, high in ((0.1, 5.0), (0.8, 1.2), (0.0, torch.pi)))  # fmt: skip
    x = torch.rand(n_tasks, n_points, 1, generator=generator) * 10 - 5
    return x, a * torch.sin(w * x + b)


def query_loss(network, theta, alpha, support, query):
    """``L(f(θ − α ⊙ ∇ L(f(θ; support)); query))``, differentiable in θ and in α."""
    x, y = support
    loss = nn.functional.mse_loss(functional_call(network, theta, (x,)), y)
    grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)  # a graph: the gradient is exact
    adapted = {n: p - alpha[n] * g for (n, p), g in zip(theta.items(), grads, strict=True)}
    x, y = query
    return nn.functional.mse_loss(functional_call(network, adapted, (x,)), y)


def main(outer_steps: int = 1000, n_tasks: int = 4) -> float:
    """Meta-train; return the mean loss on 100 new curves, each learned from 5 points."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    theta = dict(network.named_parameters())
    alpha = {n: torch.full_like(p, 0.01).requires_grad_() for n, p in theta.items()}
    outer = torch.optim.Adam([*theta.values(), *alpha.values()], lr=1e-3)
    for _ in range(outer_steps):
        x, y = curves(n_tasks, 15, generator)
        losses = [query_loss(network, theta, alpha, (x[b, :5], y[b, :5]), (x[b, 5:], y[b, 5:])) for b in range(n_tasks)]
        outer.zero_grad()
        torch.stack(losses).mean().backward()
        outer.step()
    x, y = curves(100, 105, generator)
    losses = [query_loss(network, theta, alpha, (x[b, :5], y[b, :5]), (x[b, 5:], y[b, 5:])) for b in range(100)]
    return float(torch.stack(losses).mean().detach())


if __name__ == "__main__":
    print(f"mean squared error on new curves after one step from 5 points: {main():.3f}")
