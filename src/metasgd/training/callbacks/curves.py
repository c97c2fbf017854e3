"""What a run shows of its learned optimizer: counts of odd rates, what the rule chose, how curves are fitted.

All of it goes to the run's loggers, as far as they take figures.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from metasgd.data.sinusoid import SinusoidSampler
from metasgd.episode import Episode
from metasgd.errors import counted
from metasgd.meta.full_unroll import FullUnroll
from metasgd.reporting.rates import moved_share
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.training.callbacks.validation_figures import ValidationFigures, as_in_a_step
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.loggers import log_figure
from metasgd.training.module import MetaSGDModule


class CountRates(Callback):
    """Logs which shares of the learned rates moved and are negative (α's sign is free), and how many are not finite."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, MetaSGDModule)
        every_n = trainer.log_every_n_steps  # type: ignore[attr-defined] # set by Trainer.__init__
        if not every_n or (batch_idx + 1) % every_n:
            return
        rates = pl_module.update_rule.learned_rates().values()
        if not rates:
            return
        every = torch.cat([rate.detach().flatten() for rate in rates])
        start = pl_module.update_rule.init
        if isinstance(start, int | float):  # the same for all: one comparison
            moved = moved_share(every, start)
        else:
            moved = torch.stack([moved_share(r.detach(), start) * r.numel() for r in rates]).sum() / len(every)
        counts = {
            "rates/moved_share": moved,
            "rates/negative_share": (every < 0).float().mean(),
            "rates/not_finite": (~every.isfinite()).sum().float(),
        }
        pl_module.log_dict(counts, batch_size=batch.n_tasks)


class ShowCurves(ValidationFigures):
    """Pictures some fixed curves of a regression: support, truth, and what is predicted after 0 … S steps."""

    N_CURVES, POINTS = 4, 200
    AFTER = (0, 1, 2, 5, 10)

    def draw(self, trainer: Trainer, module: MetaSGDModule, data: EpisodicDataModule) -> None:
        sampler = data.samplers["val"]
        if not isinstance(sampler, SinusoidSampler):
            return
        drawn = sampler.draw_whole(np.arange(self.N_CURVES), self.POINTS)
        evaluated = module.evaluate(as_in_a_step(trainer, drawn), self.AFTER, inner_steps=max(self.AFTER))
        log_figure(trainer, "curves", curves_figure(drawn, evaluated.outputs.float().cpu(), self.AFTER))


class ShowChoices(ValidationFigures):
    """Pictures the learning rates and momenta that a rule chooses on validation tasks, against the loss it read."""

    N_TASKS = 32

    def draw(self, trainer: Trainer, module: MetaSGDModule, data: EpisodicDataModule) -> None:
        if not isinstance(module.update_rule, OptimizerNetwork) or not module.eval_inner_steps:
            return
        if not isinstance(module.unroll, FullUnroll):  # each of many inner steps is logged by itself
            return
        losses, chosen = [], []
        for drawn in data.first_val_tasks(self.N_TASKS):
            evaluated = module.evaluate(as_in_a_step(trainer, drawn), after=[module.eval_inner_steps])
            losses.append(evaluated.support_losses.float().cpu())
            chosen.append({name: choice.flatten(2).float().cpu() for name, choice in evaluated.chosen.items()})
        by_name = {name: torch.cat([answers[name] for answers in chosen]) for name in chosen[0]}
        log_figure(trainer, "choices", choices_figure(torch.cat(losses), by_name))


def curves_figure(tasks: Episode, outputs: Tensor, after: Sequence[int]) -> Figure:
    """One panel per curve; ``outputs`` is ``[B, J, points, 1]`` after each of the J numbers of steps in ``after``."""
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    panels: list[Axes] = list(figure.subplots(2, -(-tasks.n_tasks // 2), sharex=True).flat)
    for b, panel in enumerate(panels[: tasks.n_tasks]):
        x, truth = tasks.query_x[b, :, 0], tasks.query_y[b, :, 0]
        panel.plot(x, truth, color="black", linewidth=2, label="truth")
        room = 0.5 * float(truth.max() - truth.min())
        panel.set_ylim(float(truth.min()) - room, float(truth.max()) + room)  # a diverging learner may leave it
        for j, s in enumerate(after):
            style = {"linestyle": ":", "color": "grey"} if s == 0 else {"color": f"C{j - 1}", "alpha": 0.8}
            panel.plot(x, outputs[b, j, :, 0], label=f"after {counted(s, 'step')}", **style)
        panel.plot(tasks.support_x[b, :, 0], tasks.support_y[b, :, 0], "o", color="black", label="support")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def choices_figure(losses: Tensor, chosen: dict[str, Tensor]) -> Figure:
    """A panel per choice: ``losses [B, S]`` across, ``chosen[…] [B, S, groups]`` upwards, coloured by inner step."""
    figure = Figure(figsize=(6.4, 3), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, len(chosen)).flat)
    steps = torch.arange(losses.shape[1]).expand_as(losses)
    for panel, (name, choice) in zip(panels, chosen.items(), strict=True):
        for group in choice.unbind(dim=-1):
            dots = panel.scatter(losses.flatten(), group.flatten(), c=steps.flatten(), s=12, cmap="viridis")
        panel.set(xscale="log", xlabel="support loss", ylabel=name.replace("_", " "))
    figure.colorbar(dots, ax=panels, label="inner step", ticks=range(losses.shape[1]))
    return figure
