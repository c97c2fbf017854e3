"""Draw what the learned optimizers have learned, for the documentation: python experiments/optimizer_pictures.py."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

import metasgd
from metasgd import LearnedOptimizer
from metasgd.data.task_shape import TaskShape
from metasgd.rules.base import Coefficients
from metasgd.rules.scaled_network import OF_A_VECTOR, ScaledOptimizerNetwork, scale_of
from metasgd.rules.schedule import schedule_factor
from metasgd.rules.scheduled_muon import ScheduledMuon
from metasgd.rules.tensor_kinds import KINDS, TensorKinds
from metasgd.supervised.small_problems.networks import SmallNetworks
from metasgd.supervised.small_problems.objective import mixed_loss
from metasgd.supervised.small_problems.source import SmallProblems

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH = 4.9
"""Inches: what can be read on a phone."""
STEPS = 200
COURSES = {
    "falls fast, to 0.1": (3.5, 0.1, 25.0),
    "falls slowly, to 2": (3.5, 2.0, 80.0),
    "stays at 3.5": (3.5, 3.5, 1.0),
}
"""Of a loss ``b + (a − b) exp(−s / t)``: a, b and t."""


def course(start: float, end: float, time: float) -> torch.Tensor:
    return end + (start - end) * torch.exp(-torch.arange(STEPS) / time)


def answers(rule: ScaledOptimizerNetwork, losses: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """η and μ of every step of a training with these losses."""
    rule.total_steps = STEPS
    grads = {"w": torch.ones(1, 1)}
    state = rule.init_state(grads)
    found = []
    with torch.no_grad():
        for s, loss in enumerate(losses):
            answer: Coefficients = rule.coefficients(s, grads, loss, state)
            state = state | answer.memory
            found.append([float(answer.memory[name]) for name in ("learning_rate", "momentum")])
    eta, mu = np.array(found).T
    return eta, mu


def scaled_network() -> None:
    """η / (1 − μ) and μ of ``scaled_network_long`` over a training, and by what a layer's rate is multiplied."""
    rule = metasgd.load("scaled_network_long").model.update_rule
    assert isinstance(rule, ScaledOptimizerNetwork)
    figure = Figure(figsize=(WIDTH, 7), layout="constrained")
    rates, momenta, factors = figure.subplots(3, 1)
    done = np.arange(STEPS) / STEPS
    rule.scale_free = False
    for (name, (start, end, time)), color in zip(COURSES.items(), ("tab:green", "tab:orange", "tab:red"), strict=True):
        eta, mu = answers(rule, course(start, end, time))
        rates.plot(done, eta / (1 - mu), color=color, label=f"a loss that {name}")
        momenta.plot(done, mu, color=color)
    rule.scale_free = True
    eta, mu = answers(rule, torch.ones(STEPS))
    factor = [float(schedule_factor("trapezoid", s, STEPS)) for s in range(STEPS)]
    rates.plot(done, eta * factor / (1 - mu), color="black", label="in LearnedOptimizer: any loss, × schedule")
    momenta.plot(done, mu, color="black")
    rates.set(ylabel="learning rate η / (1 − μ)", xlabel="share of the training", ylim=(0, None))
    rates.legend(fontsize=8, loc="upper right")
    momenta.set(ylabel="momentum μ", xlabel="share of the training", ylim=(0, None))
    inputs = np.array([1, 4, 9, 16, 64, 144, 256, 576, 1024, 4096])
    factors.loglog(inputs, [scale_of(torch.Size([1, n])) for n in inputs], "o-", color="tab:blue", label="weights")
    factors.axhline(OF_A_VECTOR, color="tab:purple", linestyle="--", label="biases and other vectors")
    factors.set(ylabel="factor c", xlabel="inputs of a unit (fan-in)")
    factors.legend(fontsize=8)
    figure.savefig(IMAGES / "learned_rates.png", dpi=100)


def training(rule: ScheduledMuon, steps: int) -> dict[str, NDArray[np.float64]]:
    """η and μ of each kind of tensor, ``[steps, 2]``, in a training of a small attention network."""
    torch.manual_seed(0)
    problem = SmallProblems().sampler("test", Path(), Path(), 0, TaskShape(1, 2048, 1)).draw(np.arange(3, 4))
    network = SmallNetworks().members[3]
    optimizer = LearnedOptimizer(network.named_parameters(), update_rule=rule, total_steps=steps)
    found = []
    for s in range(steps):
        rows = (16 * s + torch.arange(16)) % 2048
        optimizer.zero_grad()
        loss = mixed_loss(network(problem.support_x[0, rows]), problem.support_y[0, rows])
        loss.backward()
        optimizer.step(loss)
        found.append([optimizer.chosen[name] for name in ("learning_rate", "momentum")])
    of_each = np.array(found)  # [steps, 2, tensors]
    of = TensorKinds({n: p.shape for n, p in network.named_parameters()}).of
    kinds = np.array([of(n) for n, _ in network.named_parameters()])
    return {kind: of_each[:, :, kinds == kind].mean(axis=2) for kind in KINDS if (kinds == kind).any()}


def scheduled_muon() -> None:
    """η and μ of ``scheduled_muon`` over a training, and the factor c of each kind, learned and as it starts."""
    learned = metasgd.load("scheduled_muon").model.update_rule
    assert isinstance(learned, ScheduledMuon)
    start = ScheduledMuon()
    start.bind(dict(SmallNetworks().members[3].named_parameters()), 400)
    figure = Figure(figsize=(WIDTH, 7), layout="constrained")
    rates, momenta, factors = figure.subplots(3, 1)
    colors = dict(zip(KINDS, ("tab:blue", "tab:cyan", "tab:green", "tab:purple", "tab:red"), strict=True))
    inputs = np.array([1, 4, 16, 64, 256, 1024, 4096])
    for rule, line in ((start, ":"), (learned, "-")):
        for kind, values in training(rule, 400).items():
            done = np.arange(len(values)) / len(values)
            rates.plot(done, values[:, 0], line, color=colors[kind], label=kind if rule is learned else None)
            momenta.plot(done, values[:, 1], line, color=colors[kind])
        for i, kind in enumerate(KINDS):
            a, b = float(rule.exponent[i].detach()), float(rule.log_scale[i].detach())
            factors.loglog(
                inputs, np.exp(b) * inputs**-a, line, color=colors[kind], label=kind if rule is learned else None
            )
    rates.set(ylabel="learning rate η", xlabel="share of the training", ylim=(0, None), title="dotted: at the start")
    rates.legend(fontsize=8)
    momenta.set(ylabel="momentum μ", xlabel="share of the training")
    factors.set(ylabel="factor c", xlabel="inputs of a unit (fan-in)")
    factors.legend(fontsize=8)
    figure.savefig(IMAGES / "learned_scheduler.png", dpi=100)


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    scaled_network()
    scheduled_muon()
