"""What a run on pictures shows in TensorBoard beside its curves: learned rates, tasks, inner steps, settings."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from metasgd.episode import Episode
from metasgd.reporting.metrics import Z95
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule

MOST_FILTERS = 64
HISTOGRAM_BINS = 30
"""Of equal widths: those that are the default, a tenth of the rate wide, would show most tensors as one block."""
INCHES, SIDE, ROW, MARGIN, TITLE = 0.6, 0.94, 1.3, 0.6, 0.9
"""Of a task's picture: the inches from one picture to the next; in these, a picture's side, the height of a row, and
the space for the classes' numbers beside and the title above."""
OF_THE_MACHINE = ("data.root", "data.cache_dir", "data.num_workers", "model.engine")


class ShowRates(Callback):
    """A histogram of each tensor's learned rates, and a picture of those of the first convolution."""

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaSGDModule)
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        writer, step = _writer_of(trainer)
        rates = {n: rate.detach().float().cpu() for n, rate in pl_module.update_rule.learned_rates().items()}
        for name, rate in rates.items():
            if rate.isfinite().all():  # a histogram has no place for others, which rates/not_finite counts
                writer.add_histogram(f"rates/{name}", rate, step, bins=HISTOGRAM_BINS)
        first = first_convolution(pl_module.network)
        if first in rates and rates[first].ndim == 4:
            writer.add_figure("rates/first_convolution", filters_figure(rates[first], first), step, close=False)


class ShowTasks(Callback):
    """Some fixed validation tasks: what was shown, what was asked, what was answered; and accuracy by inner step."""

    N_TASKS, JUDGED = 3, 64

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaSGDModule)
        data = trainer.datamodule  # type: ignore[attr-defined] # set by Trainer.fit
        assert isinstance(data, EpisodicDataModule)
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metric = pl_module.objective.metric
        writer, step = _writer_of(trainer)
        measured: list[Tensor] = []
        for drawn in data.first_val_tasks(self.JUDGED):
            start = len(measured) * data.meta_batch_size
            tasks = Episode(*(field.to(pl_module.device) for field in trainer.precision_plugin.convert_input(drawn)))
            outputs = pl_module.evaluate(tasks, after=range(pl_module.eval_inner_steps + 1)).outputs.float().cpu()
            by_step = [pl_module.objective.measure(o, drawn.query_y) for o in outputs.unbind(dim=1)]
            measured.append(torch.stack(by_step, dim=1))
            if metric == "accuracy" and drawn.query_x.ndim == 5:
                for b in range(min(self.N_TASKS - start, drawn.n_tasks)):
                    figure = task_figure(drawn.tasks(b, b + 1), outputs[b, -1].argmax(dim=-1))
                    writer.add_figure(f"tasks/{start + b}", figure, step, close=False)
        writer.add_figure(f"inner_steps/{metric}", steps_figure(torch.cat(measured), metric), step, close=False)


class ShowSettings(Callback):
    """The run among others, by its settings and the best figure it reached on the validation tasks."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaSGDModule)
        best = trainer.checkpoint_callback.best_model_score  # type: ignore[union-attr] # BestCheckpoint, the first
        if best is not None:
            assert isinstance(trainer.logger, TensorBoardLogger)
            figures = {f"best/{pl_module.objective.metric}": float(best)}
            # after the last step, so that a run that goes on takes it back
            trainer.logger.log_hyperparams(self.settings, figures, trainer.global_step)


def first_convolution(network: nn.Module) -> str | None:
    """The name of the first convolution's weights, if there is one."""
    names = (n for n, module in network.named_modules() if isinstance(module, nn.Conv2d))
    first = next(names, None)
    return None if first is None else f"{first}.weight".removeprefix(".")


def filters_figure(rates: Tensor, name: str) -> Figure:
    """Rates ``[filters, channels, height, width]``: a row per channel, a square per filter.

    Where their signs differ, zero is white; otherwise the colours go from the least to the greatest.
    """
    shown = rates[:MOST_FILTERS]
    columns = min(8, len(shown))
    rows = -(-len(shown) // columns) * rates.shape[1]
    figure = Figure(figsize=(4.5, 1.2 + 0.45 * rows), layout="constrained")
    low, high = float(shown.min()), float(shown.max())
    mixed = low < 0 < high
    low, high = (-max(-low, high), max(-low, high)) if mixed else (low, high)
    panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels:
        panel.axis("off")
    for f, of_filter in enumerate(shown):
        for c, square in enumerate(of_filter):
            panel = panels[(f // columns * rates.shape[1] + c) * columns + f % columns]
            image = panel.imshow(square.numpy(), cmap="RdBu_r" if mixed else "viridis", vmin=low, vmax=high)
    bar = figure.colorbar(image, ax=panels, location="bottom", aspect=30, ticks=[low, (low + high) / 2, high])
    bar.set_label(f"learning rate of each weight of {name}")
    bar.ax.set_xticklabels([f"{rate:.4g}" for rate in (low, (low + high) / 2, high)])
    if len(rates) > len(shown):
        figure.suptitle(f"the first {len(shown)} of {len(rates)} filters")
    return figure


def steps_figure(measured: Tensor, metric: str, split: str = "validation") -> Figure:
    """``measured``: ``[B, S + 1]``, a row per task, after 0 … S inner steps; their mean and its 95 % interval."""
    n, steps = measured.shape
    mean = measured.mean(dim=0)
    half = Z95 * measured.std(dim=0) / n**0.5 if n > 1 else torch.zeros(steps)
    figure = Figure(figsize=(4, 3), layout="constrained")
    panel = figure.subplots()
    panel.errorbar(range(steps), mean.numpy(), yerr=half.numpy(), marker="o", capsize=4)
    panel.set(xlabel="inner steps", ylabel=metric, xticks=range(steps), title=f"{n} {split} tasks, mean ± 95 %")
    panel.grid(alpha=0.3)
    if metric == "accuracy":
        panel.set_ylim(0, 1.02)
    return figure


def task_figure(task: Episode, predicted: Tensor, most_shots: int = 5, most_queries: int = 6) -> Figure:
    """One task: a row per class with its support pictures and its queries, each query with the class it was taken for.

    Args:
        task: a meta-batch of one.
        predicted: ``[X]``, the class position predicted for each query.
        most_shots: support pictures shown of each class.
        most_queries: queries shown of each class.
    """
    n = task.n_way
    support, query = (x[0].reshape(n, -1, *x.shape[2:]) for x in (task.support_x, task.query_x))
    taken_for = predicted.reshape(n, -1)
    right = float((predicted == task.query_y[0]).float().mean())
    shots, queries = min(support.shape[1], most_shots), min(query.shape[1], most_queries)
    first_query = shots + 0.5
    width, height = first_query + queries, n * ROW
    across, down = width + MARGIN, height + TITLE
    figure = Figure(figsize=(INCHES * across, INCHES * down))
    # all in one panel: a panel for each picture takes some 20 s at 60 ways
    panel = figure.add_axes((0.5 / across, 0, width / across, height / down))
    for way in range(n):
        place = way * ROW + ROW - 1
        panel.text(-0.1, place + 0.5, f"{way + 1}", fontsize=12, ha="right", va="center")
        for k in range(shots):
            _show(panel, support[way, k], k, place)
        for q in range(queries):
            answer, x = int(taken_for[way, q]), first_query + q
            wrong = answer != way
            _show(panel, query[way, q], x, place)
            panel.text(
                x + SIDE / 2,
                place - 0.03,
                f"{answer + 1}",
                fontsize=12,
                ha="center",
                va="bottom",
                color="crimson" if wrong else "black",
            )
            if wrong:
                panel.add_patch(Rectangle((x, place), SIDE, SIDE, fill=False, color="crimson", linewidth=4))
    panel.axis("off")
    panel.set(xlim=(0, width), ylim=(height, 0))
    figure.suptitle(
        f"classes, and queries with the class predicted:\n{right:.0%} right, wrong ones framed",
        y=1 - 0.15 / down,
        fontsize=11,
    )
    return figure


def _show(panel: Axes, picture: Tensor, x: float, y: float) -> None:
    """A picture ``[channels, height, width]``, grey or in colour, its upper left corner at (x, y)."""
    image = picture.permute(1, 2, 0).squeeze(-1).numpy()
    panel.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(x, x + SIDE, y + SIDE, y), aspect="equal")


def settings_of(
    config: dict[str, Any], sections: Sequence[str] = ("model", "data", "seed_everything")
) -> dict[str, Any]:
    """A configuration as a flat table, for TensorBoard's: one name and one plain value each."""
    flat: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(name if key == "init_args" else f"{name}.{key}".removesuffix(".class_path"), inner)
        elif value is not None and name not in OF_THE_MACHINE:
            flat[name] = value if isinstance(value, int | float | str) else str(value)

    for section in sections:
        add(section, config.get(section))
    return flat


def _writer_of(trainer: Trainer) -> tuple[Any, int]:
    """The run's TensorBoard writer, and the last step taken, at which Lightning logs."""
    assert isinstance(trainer.logger, TensorBoardLogger)
    return trainer.logger.experiment, trainer.global_step - 1
