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
from metasgd.data.glyphs.source import Glyphs
from metasgd.data.sinusoid import SinusoidSampler
from metasgd.data.task_shape import TaskShape
from metasgd.meta.model import MetaModel
from metasgd.rules.base import key_of
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.training.datamodule import default_cache_dir

IMAGES = Path(__file__).parents[1] / "docs" / "images"
Params = dict[str, Tensor]


def save(figure: Figure, name: str) -> None:
    figure.savefig(IMAGES / f"idea_{name}.png", dpi=110)


def box(panel: Axes, x: float, y: float, text: str, color: str, width: float = 1.9) -> None:
    shape = FancyBboxPatch((x - width / 2, y - 0.32), width, 0.64, boxstyle="round,pad=0.06", fc=color, ec="black")
    panel.add_patch(shape)
    panel.text(x, y, text, ha="center", va="center", fontsize=9)


def arrow(panel: Axes, start: tuple[float, float], end: tuple[float, float], **style: object) -> None:
    panel.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "linewidth": 1.3, **style})


def loops() -> None:
    """The two loops as boxes: inside, a task is learned; outside, from where and at which rates."""
    figure = Figure(figsize=(7, 3.1))
    panel = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    panel.set(xlim=(0, 10), ylim=(0, 4.4))
    panel.axis("off")
    panel.add_patch(FancyBboxPatch((2.5, 1.75), 5.1, 2.3, boxstyle="round,pad=0.1", fc="#f2f2f2", ec="grey", ls="--"))
    panel.text(2.6, 3.88, "inner loop: one task, S steps", fontsize=9, color="dimgrey", va="center")
    box(panel, 1.1, 2.9, "start θ\nrule φ", "#cfe2f3", 1.5)
    box(panel, 3.7, 2.9, "loss on the\nsupport set", "#ffffff")
    box(panel, 6.4, 2.9, "update rule:\nθ' = θ − α ⊙ ∇L", "#fff2cc", 2.1)
    box(panel, 8.95, 2.9, "loss of θ' on the\nquery set", "#d9ead3", 1.8)
    arrow(panel, (1.95, 2.9), (2.65, 2.9))
    arrow(panel, (4.75, 2.9), (5.25, 2.9))
    arrow(panel, (7.55, 2.9), (7.95, 2.9))
    arrow(panel, (6.4, 2.5), (3.7, 2.5), connectionstyle="arc3,rad=-0.35")
    panel.text(5.05, 1.78, "S times", fontsize=8, ha="center", color="dimgrey")
    arrow(panel, (8.95, 2.5), (1.1, 2.5), connectionstyle="arc3,rad=-0.28", color="#3d6fa5")
    said = (
        "outer step: the exact gradient of the query loss, through the inner steps,\n"
        "moves θ and φ (here α) together; then other tasks are drawn"
    )
    panel.text(5.05, 0.42, said, fontsize=9, ha="center", color="#3d6fa5")
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
    figure = Figure(figsize=(8, 3.3), layout="constrained")
    plane, curve = figure.subplots(1, 2)
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
    curve.legend(fontsize=7, loc="upper right")
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
    figure = Figure(figsize=(8, 2.5), layout="constrained")
    panels = list(figure.subplots(1, len(weights)).flat)
    for i, (panel, a) in enumerate(zip(panels, weights.values(), strict=True), 1):
        edge = float(np.quantile(np.abs(a), 0.99))
        panel.hist(a.clip(-edge, edge), bins=41, color="tab:blue")
        panel.axvline(0.01, color="tab:red", linestyle="--", linewidth=1)
        panel.set_title(f"weights of layer {i}: {(a < 0).mean():.0%} below zero", fontsize=9)
        panel.set(xlabel="learned rate α", yticks=[])
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
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    panels = list(figure.subplots(1, 2).flat)
    for panel, (name, answer) in zip(panels, {"learning rate": eta, "momentum": mu}.items(), strict=True):
        panel.plot(losses, answer, color="black", label="what it answers to a loss")
        chosen = found.chosen[name.replace(" ", "_")].flatten(2)[..., 0]
        for s in range(read.shape[1]):
            panel.plot(read[:, s], chosen[:, s], "o", markersize=5, alpha=0.7, label=f"16 tasks, inner step {s + 1}")
        panel.set(xscale="log", xlabel="loss on the support set", ylabel=name)
    panels[0].legend(fontsize=8)
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
    figure = Figure(figsize=(8, 2.5), layout="constrained")
    panels = list(figure.subplots(1, 3).flat)
    eta, mu = np.array(chosen, dtype=float).reshape(steps, 2).T
    for panel, (name, values) in zip(
        panels, {"loss": losses, "learning rate η": eta, "momentum μ": mu}.items(), strict=True
    ):
        panel.plot(values, color="tab:blue")
        panel.set(xlabel="step", title=name)
    panels[0].set_yscale("log")
    save(figure, "training")


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    for draw in (loops, directions, rates, choices, training):
        draw()
