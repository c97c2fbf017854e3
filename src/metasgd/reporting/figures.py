"""Figures of a run: values in, a matplotlib figure out."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from metasgd.episode import Episode
from metasgd.errors import counted
from metasgd.reporting.metrics import mean_and_ci95
from metasgd.reporting.text import figure_text, printable

MOST_FILTERS = 64
MOST_PATHS = 10
INCHES, SIDE, ROW, MARGIN, TITLE = 0.6, 0.94, 1.3, 0.6, 0.9
"""Of a task's picture: the inches from one picture to the next; in these, a picture's side, the height of a row, and
the space for the classes' numbers beside and the title above."""
OF_THE_MACHINE = ("data.root", "data.cache_dir", "data.num_workers", "data.on_device", "model.engine")


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
    panel = figure.subplots()  # a panel for each square takes seconds
    for f, of_filter in enumerate(shown):
        for c, square in enumerate(of_filter):
            x, y = f % columns, f // columns * rates.shape[1] + c
            extent = (x, x + SIDE, y + SIDE, y)
            image = panel.imshow(
                square.numpy(), cmap="RdBu_r" if mixed else "viridis", vmin=low, vmax=high, extent=extent
            )
    panel.axis("off")
    panel.set(xlim=(0, columns), ylim=(rows, 0))
    bar = figure.colorbar(image, ax=panel, location="bottom", aspect=30, ticks=[low, (low + high) / 2, high])
    bar.set_label(f"learning rate of each weight of {figure_text(name)}")
    bar.ax.set_xticklabels([f"{rate:.4g}" for rate in (low, (low + high) / 2, high)])
    if len(rates) > len(shown):
        figure.suptitle(f"the first {len(shown)} of {len(rates)} filters")
    return figure


def steps_figure(measured: Tensor, metric: str, split: str = "validation") -> Figure:
    """``measured``: ``[B, S + 1]``, a row per task, after 0 … S inner steps; their mean and its 95 % interval."""
    n, steps = measured.shape
    mean, half = mean_and_ci95(measured) if n > 1 else (measured[0], torch.zeros(steps))
    figure = Figure(figsize=(4, 3), layout="constrained")
    panel = figure.subplots()
    panel.errorbar(range(steps), mean.numpy(), yerr=half.numpy(), marker="o", capsize=4)
    panel.set(xlabel="inner steps", ylabel=metric, xticks=range(steps), title=f"{n} {split} tasks, mean ± 95 %")
    panel.grid(alpha=0.3)
    if metric == "accuracy":
        panel.set_ylim(0, 1.02)
    return figure


def paths_figure(positions: Tensor, goals: Tensor, after: Sequence[int]) -> Figure:
    """A panel per task: where its agents went after each number of inner steps, and its goal.

    Args:
        positions: ``[J, B, K, H, 2]``, NaN after the end of an episode.
        goals: ``[B, 2]``.
        after: the J numbers of inner steps.
    """
    figure = Figure(figsize=(3 * len(goals), 3.4), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, len(goals), squeeze=False).flat)
    for b, panel in enumerate(panels):
        for j, s in enumerate(after):
            label = "before adaptation" if s == 0 else f"after {counted(s, 'step')}"
            for k, path in enumerate(positions[j, b, :MOST_PATHS]):
                x, y = path.T.numpy()
                colour = "grey" if s == 0 else f"C{j}"
                panel.plot(x, y, color=colour, linewidth=0.8, alpha=0.7, label=label if k == 0 else None)
        panel.plot(*goals[b].tolist(), "*", color="black", markersize=12, label="goal")
        panel.set(xlim=(-0.8, 0.8), ylim=(-0.8, 0.8), aspect="equal")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(after) + 1)
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


def file_of(figure: Figure, form: str, **options: Any) -> bytes:
    """The file of a figure.

    Args:
        figure: drawn as it is.
        form: svg or png.
        options: of ``savefig``.
    """
    file = io.BytesIO()
    with warnings.catch_warnings():
        # of a letter that the font lacks a box is drawn; the tables beside it have the letter
        warnings.filterwarnings("ignore", message=".*missing from font")
        figure.savefig(file, format=form, **options)
    return file.getvalue()


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
            flat[printable(name)] = value if isinstance(value, int | float) else printable(value)

    for section in sections:
        add(section, config.get(section))
    return flat
