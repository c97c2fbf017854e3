"""Draw the figures of docs/idea.md from the published checkpoints: python experiments/idea_pictures.py."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor
from torch.func import functional_call

import metasgd
from metasgd.data.cache import default_cache_dir
from metasgd.data.glyphs.source import Glyphs
from metasgd.data.sinusoid import SinusoidSampler
from metasgd.data.task_shape import TaskShape
from metasgd.meta.model import MetaModel
from metasgd.rules.base import key_of
from metasgd.rules.optimizer_network import OptimizerNetwork

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH = 4.9
"""Inches, of every figure: what can be read on a phone."""
Params = dict[str, Tensor]


def save(figure: Figure, name: str) -> None:
    figure.savefig(IMAGES / f"idea_{name}.png", dpi=110)


def box(panel: Axes, x: float, y: float, text: str, color: str) -> None:
    shape = FancyBboxPatch((x - 1.5, y - 0.28), 3.0, 0.56, boxstyle="round,pad=0.06", fc=color, ec="black")
    panel.add_patch(shape)
    panel.text(x, y, text, ha="center", va="center", fontsize=10)


def arrow(panel: Axes, start: tuple[float, float], end: tuple[float, float], **style: object) -> None:
    panel.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "linewidth": 1.3, **style})


def loops() -> None:
    """The two loops as boxes: inside, a task is learned; outside, from where and at which rates."""
    figure = Figure(figsize=(WIDTH, 5.2))
    panel = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    panel.set(xlim=(0, 6.4), ylim=(0, 7))
    panel.axis("off")
    panel.add_patch(FancyBboxPatch((1.75, 2.35), 4.4, 2.85, boxstyle="round,pad=0.1", fc="#f2f2f2", ec="grey", ls="--"))
    panel.text(6.1, 5.05, "inner loop: one task", fontsize=10, color="dimgrey", ha="right", va="center")
    box(panel, 3.3, 6.35, "start θ, update rule φ", "#cfe2f3")
    box(panel, 3.3, 4.5, "loss on the support set", "#ffffff")
    box(panel, 3.3, 2.85, "update rule: θ' = θ − α ⊙ ∇L", "#fff2cc")
    box(panel, 3.3, 1.1, "loss of θ' on the query set", "#d9ead3")
    arrow(panel, (3.3, 6.0), (3.3, 4.9))
    arrow(panel, (3.3, 4.12), (3.3, 3.25))
    arrow(panel, (3.3, 2.45), (3.3, 1.5))
    arrow(panel, (4.6, 3.22), (4.6, 4.12), connectionstyle="arc3,rad=0.7")
    panel.text(5.05, 3.67, "S steps", fontsize=10, color="dimgrey", va="center")
    arrow(panel, (1.7, 1.1), (1.7, 6.35), connectionstyle="arc3,rad=-0.32", color="#3d6fa5")
    said = (
        "outer step: the exact gradient of the query loss, through the\n"
        "inner steps, moves θ and φ (here α); then other tasks are drawn"
    )
    panel.text(3.2, 0.35, said, fontsize=10, ha="center", va="center", color="#3d6fa5")
    save(figure, "loops")


def curve_model() -> MetaModel:
    return metasgd.load("sinusoid").model.eval()


def loss_at(model: MetaModel, params: Params, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(functional_call(model.network, params, (x,)), y)


def directions() -> None:
    """The loss of one task in the plane of two directions: the gradient, and the learned step."""
    model = curve_model()
    task = SinusoidSampler("test", 0, TaskShape(1, 5, 10)).draw_whole(np.arange(4), 200)
    theta = {n: p.detach().requires_grad_() for n, p in model.network.named_parameters()}
    alpha = {n: model.update_rule.alpha[key_of(n)].detach() for n in theta}
    figure = Figure(figsize=(WIDTH, 6.6), layout="constrained")
    plane, curve = figure.subplots(2, 1)
    b = 0
    grads = dict(zip(theta, torch.autograd.grad(loss_at(model, theta, task.support_x[b], task.support_y[b]),
                                                list(theta.values())), strict=True))  # fmt: skip
    start = {n: p.detach() for n, p in theta.items()}
    step = {n: -alpha[n] * g for n, g in grads.items()}
    inner = sum(float((step[n] * -grads[n]).sum()) for n in grads)
    squared = sum(float((g * g).sum()) for g in grads.values())
    along = {n: -g * inner / squared for n, g in grads.items()}  # the part of the step along the gradient
    across = {n: step[n] - along[n] for n in step}

    def query(a: float, c: float) -> float:
        at = {n: start[n] + a * along[n] + c * across[n] for n in start}
        return float(loss_at(model, at, task.query_x[b], task.query_y[b]))

    with torch.no_grad():
        a, c = np.linspace(-0.6, 1.9, 61), np.linspace(-0.4, 1.5, 61)
        losses = np.array([[query(x, y) for x in a] for y in c])
        filled = plane.contourf(
            a, c, losses, levels=np.geomspace(losses.min(), 12, 15), cmap="viridis_r", extend="both"
        )
        figure.colorbar(
            filled, ax=plane, label="loss on unseen points", format="%.2g", ticks=np.geomspace(losses.min(), 12, 6)
        )
        best = min(a[a >= 0], key=lambda x: query(x, 0))
        found = {
            "before the step": ((0.0, 0.0), start),
            "best along the gradient": ((best, 0.0), {n: start[n] + best * along[n] for n in start}),
            "Meta-SGD": ((1.0, 1.0), {n: start[n] + step[n] for n in start}),
        }
        colors = {"before the step": "grey", "best along the gradient": "tab:red", "Meta-SGD": "tab:blue"}
        curve.plot(task.query_x[b, :, 0], task.query_y[b, :, 0], color="black", linewidth=2, label="truth")
        for name, ((x, y), params) in found.items():
            plane.plot(x, y, "o", color=colors[name], markeredgecolor="white", markersize=9, label=name)
            if name != "before the step":
                plane.annotate(
                    "", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "color": colors[name], "linewidth": 2}
                )
            drawn = functional_call(model.network, params, (task.query_x[b],))[:, 0]
            label = f"{name}: loss {float(loss_at(model, params, task.query_x[b], task.query_y[b])):.2f}"
            style = ":" if name == "before the step" else "-"
            curve.plot(task.query_x[b, :, 0], drawn, style, color=colors[name], label=label)
    curve.plot(task.support_x[b, :, 0], task.support_y[b, :, 0], "o", color="black", label="the five points seen")
    curve.legend(fontsize=8, loc="upper right")
    low, high = curve.get_ylim()
    curve.set_ylim(low, high + 0.7 * (high - low))
    plane.set(xlabel="along the gradient", ylabel="where the learned rates turn the step")
    save(figure, "directions")


def rates() -> None:
    """The learned rates of every layer of the sinusoid learner."""
    model = curve_model()
    alpha = {
        n: model.update_rule.alpha[key_of(n)].detach().flatten().numpy() for n, _ in model.network.named_parameters()
    }
    weights = {n: a for n, a in alpha.items() if n.endswith("weight")}
    values, counts = np.unique(np.concatenate(list(alpha.values())), return_counts=True)
    start = values[counts.argmax()]  # all began at one number, where those without a gradient still are
    figure = Figure(figsize=(WIDTH, 5), layout="constrained")
    panels = list(figure.subplots(len(weights), 1, sharex=True).flat)
    for i, (panel, a) in enumerate(zip(panels, weights.values(), strict=True), 1):
        edge = 0.6
        panel.hist(a.clip(-edge, edge), bins=41, color="tab:blue")
        panel.axvline(start, color="tab:red", linestyle="--", linewidth=1)
        panel.set_title(f"weights of layer {i}: {(a < 0).mean():.0%} below zero", fontsize=9)
        panel.set(yticks=[])
    panels[-1].set_xlabel("learned rate α")
    save(figure, "rates")


def choices() -> None:
    """What the optimizer network answers to a loss, and the way that it takes through one task."""
    learner = metasgd.load("optimizer_network")
    model = learner.model.eval()
    rule = model.update_rule
    assert isinstance(rule, OptimizerNetwork)
    losses = torch.logspace(-3, 1, 200)
    with torch.no_grad():
        eta, mu = (answer[:, 0] for answer in rule.choose(rule.read(0, losses, {})))
    source, cache = Glyphs(), Path(default_cache_dir()).expanduser()
    source.prepare(Path("data"), cache)
    tasks = source.sampler("test", Path("data"), cache, 0, TaskShape(5, 1, 15)).draw(np.arange(16))
    found = model.evaluate(tasks, after=[model.eval_inner_steps])
    read = found.support_losses
    figure = Figure(figsize=(WIDTH, 5), layout="constrained")
    panels = list(figure.subplots(2, 1, sharex=True).flat)
    for panel, (name, answer) in zip(panels, {"learning rate": eta, "momentum": mu}.items(), strict=True):
        panel.plot(losses, answer, color="black", label="what it answers to a loss")
        chosen = found.chosen[name.replace(" ", "_")].flatten(2)[..., 0]
        for s in range(read.shape[1]):
            panel.plot(read[:, s], chosen[:, s], "o", markersize=5, alpha=0.7, label=f"16 tasks, inner step {s + 1}")
        panel.set(xscale="log", ylabel=name)
    panels[0].legend(fontsize=8)
    panels[-1].set_xlabel("loss on the support set")
    save(figure, "choices")


def training() -> None:
    """The rates and momenta that the scaled optimizer network answers in a supervised training, and its loss."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(1, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(),
                                  torch.nn.Linear(64, 1))  # fmt: skip
    steps = 400
    optimizer = metasgd.LearnedOptimizer(network.named_parameters(), "scaled_network_long", total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    losses, chosen = [], []
    for _ in range(steps):
        x = torch.rand(64, 1, generator=generator) * 6 - 3
        loss = F.mse_loss(network(x), torch.sin(3 * x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)
        losses.append(float(loss.detach()))
        chosen.append([optimizer.chosen["learning_rate"], optimizer.chosen["momentum"]])
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    panels = list(figure.subplots(3, 1, sharex=True).flat)
    eta, mu = np.array(chosen, dtype=float).reshape(steps, 2).T
    for panel, (name, values) in zip(
        panels, {"loss": losses, "learning rate η": eta, "momentum μ": mu}.items(), strict=True
    ):
        panel.plot(values, color="tab:blue")
        panel.set(ylabel=name)
    panels[0].set_yscale("log")
    panels[-1].set_xlabel("step")
    save(figure, "training")


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    for draw in (loops, directions, rates, choices, training):
        draw()
