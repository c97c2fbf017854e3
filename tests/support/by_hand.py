"""The inner loop written out once more: plain autograd through plain functions, nothing of metasgd's core."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metasgd.episode import Episode
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.nn.networks import MLP, Conv4
from metasgd.rules.base import UpdateRule

Params = dict[str, Tensor]


def normalised(x: Tensor, weight: Tensor, bias: Tensor, seen: int | None) -> Tensor:
    """BatchNorm, by the statistics of the first ``seen`` examples, or of all."""
    of = x if seen is None else x[:seen]
    mean = of.mean(dim=(0, 2, 3))[:, None, None]
    var = ((of - mean) ** 2).mean(dim=(0, 2, 3))[:, None, None]
    return (x - mean) / (var + 1e-5).sqrt() * weight[:, None, None] + bias[:, None, None]


def conv4(p: Params, x: Tensor, stride: int = 2, seen: int | None = None) -> Tensor:
    for i in range(4):
        x = F.conv2d(x, p[f"body.{i}.0.weight"], p[f"body.{i}.0.bias"], stride=stride, padding=1)
        x = normalised(x, p[f"body.{i}.1.weight"], p[f"body.{i}.1.bias"], seen).clamp_min(0)
        if stride == 1:
            x = F.max_pool2d(x, 2)
    return x.reshape(len(x), -1) @ p["head.weight"].T + p["head.bias"]


def mlp(p: Params, x: Tensor, seen: int | None = None) -> Tensor:
    x = x.reshape(len(x), -1)
    for name in [n.removesuffix(".weight") for n in p if n.startswith("body.") and n.endswith(".weight")]:
        x = (x @ p[f"{name}.weight"].T + p[f"{name}.bias"]).clamp_min(0)
    return x @ p["head.weight"].T + p["head.bias"]


FORWARD: dict[type, Callable[..., Tensor]] = {Conv4: conv4, MLP: mlp}


def unrolled(
    config: InnerLoopConfig,
    tasks: Episode,
    inner_steps: int,
    step: Callable[[int, Params, Params, Tensor, Params], tuple[Params, Params]],
    first_order: bool = False,
    query_weights: list[float] | None = None,
) -> tuple[Tensor, Params, Params]:
    """The outer loss summed over tasks, and its gradient in θ and φ, through one graph of everything.

    Args:
        step: ``(s, θ, g, L, m) -> (θ, m)``, the update rule's equation; m is ``{}`` at first.
    """
    theta, phi = dict(config.network.named_parameters()), dict(config.rule.named_parameters())
    forward = FORWARD[type(config.network)]
    weights = query_weights or [0.0] * (inner_steps - 1) + [1.0]
    total = torch.zeros((), dtype=torch.float64)
    for b in range(tasks.n_tasks):
        x, y, qx, qy = (field[b] for field in tasks[:4])
        p = {
            n: t.repeat(tasks.n_way, *[1] * (t.ndim - 1)) if n.startswith("head") and t.shape[0] == 1 else t
            for n, t in theta.items()
        }
        m: Params = {}
        centre = p
        for s in range(inner_steps):
            loss = config.loss(forward(p, x), y)
            names = sorted(config.adapted)
            g = torch.autograd.grad(loss, [p[n] for n in names], create_graph=True)
            g = tuple(t + config.proximal * (p[n] - centre[n]) for n, t in zip(names, g, strict=True))
            grads = {n: t.detach() if first_order else t for n, t in zip(names, g, strict=True)}
            moved, m = step(s, {n: p[n] for n in names}, grads, loss, m)
            p = {**p, **moved}
            if weights[s]:
                if config.transductive:
                    outputs = forward(p, qx)
                else:
                    outputs = forward(p, torch.cat([x, qx]), seen=len(x))[len(x) :]
                total = total + weights[s] * config.loss(outputs, qy)
    inputs = [t for t in (*theta.values(), *phi.values()) if t.requires_grad]
    found: tuple[Tensor | None, ...] = torch.autograd.grad(total, inputs, allow_unused=True)
    grads_of = {id(t): torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)}
    return (
        total.detach(),
        {n: grads_of[id(t)] for n, t in theta.items()},
        {n: grads_of[id(t)] for n, t in phi.items() if t.requires_grad},
    )


def config_of(network: nn.Module, rule: UpdateRule, inner_steps: int, **options: Any) -> InnerLoopConfig:
    """A float64 network and rule away from any special point: no weight or rate is zero or like another."""
    network = network.double()
    names = frozenset(n for n, _ in network.named_parameters())
    adapted = options.pop("adapted", names)
    loss = options.pop("loss", F.cross_entropy)
    rule.bind({n: p for n, p in network.named_parameters() if n in adapted}, inner_steps)
    rule.double()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in (*network.parameters(), *rule.parameters()):
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return InnerLoopConfig(network, rule, loss, frozenset(adapted), **options)


def moved(config: InnerLoopConfig, tasks: Episode, to: torch.device | torch.dtype) -> tuple[InnerLoopConfig, Episode]:
    """Copies on a device, or in a dtype."""
    network, rule = copy.deepcopy(config.network).to(to), copy.deepcopy(config.rule).to(to)
    fields = (f.to(to) if f.is_floating_point() or isinstance(to, torch.device) else f for f in tasks)
    return replace(config, network=network, rule=rule), Episode(*fields)


def tasks_of(n_tasks: int, n_way: int, k_shot: int, n_query: int, shape: tuple[int, ...]) -> Episode:
    """Classification tasks on noise, float64."""
    generator = torch.Generator().manual_seed(3)

    def noise(per_class: int) -> Tensor:
        return torch.randn(n_tasks, n_way * per_class, *shape, generator=generator, dtype=torch.float64)

    ways = torch.arange(n_way)
    return Episode(
        noise(k_shot),
        ways.repeat_interleave(k_shot).repeat(n_tasks, 1),
        noise(n_query),
        ways.repeat_interleave(n_query).repeat(n_tasks, 1),
        torch.zeros(n_tasks, n_way, dtype=torch.int64),
        torch.arange(n_tasks),
    )


def curves_of(n_tasks: int, k_shot: int, n_query: int) -> Episode:
    """Regression tasks on noise, float64."""
    generator = torch.Generator().manual_seed(4)
    x, y, qx, qy = (
        torch.randn(n_tasks, points, 1, generator=generator, dtype=torch.float64)
        for points in (k_shot, k_shot, n_query, n_query)
    )
    return Episode(x, y, qx, qy, torch.zeros(n_tasks, 1, dtype=torch.int64), torch.arange(n_tasks))


def largest_difference(a: Params, b: Params) -> float:
    assert set(a) == set(b)
    return max((a[n] - b[n]).abs().max().item() for n in a)
