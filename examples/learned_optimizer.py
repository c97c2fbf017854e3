"""A learned optimizer in a plain training loop: it takes the loss at each step."""

from pathlib import Path

import torch
from torch import nn

from metasgd import LearnedOptimizer

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "scaled_network_long" / "model.ckpt"


def main(steps: int = 200) -> tuple[float, float]:
    """Fit ``y = x²`` with a small network; return the loss at the first step and at the last."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = LearnedOptimizer(network.named_parameters(), CHECKPOINT, total_steps=steps)
    x = torch.linspace(-1, 1, 64)[:, None]
    losses = []
    for _ in range(steps):
        loss = nn.functional.mse_loss(network(x), x**2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


if __name__ == "__main__":
    first, last = main()
    print(f"loss {first:.4f} at the first step, {last:.6f} at the last")
