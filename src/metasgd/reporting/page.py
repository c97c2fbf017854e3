"""The page that ``report`` writes: one HTML file that needs nothing beside it."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from metasgd.errors import counted
from metasgd.reporting.figures import file_of, filters_figure, settings_of, steps_figure
from metasgd.reporting.metrics import mean_and_ci95
from metasgd.reporting.rates import moved_share, spread_of, unmoved_in_words
from metasgd.reporting.results import in_words
from metasgd.reporting.text import figure_text, printable

MOST_SHOWN = 2000
"""Characters of a value that a table shows; config.yaml below it has them all."""


@dataclass(frozen=True)
class Curve:
    """What was logged under one name: of each split the outer steps and the values."""

    name: str
    of_splits: dict[str, tuple[list[int], list[float]]]


@dataclass(frozen=True)
class HardPair:
    """Two classes, some pictures of each, and how many of the queries asked of both were taken for the other."""

    names: tuple[str, str]
    pictures: tuple[Sequence[NDArray[np.uint8]], Sequence[NDArray[np.uint8]]]
    wrong: int
    asked: int


@dataclass(frozen=True)
class Page:
    """What there is to say of a run.

    Attributes:
        title: the run's name.
        metric: ``accuracy``, ``mse`` or ``return``.
        checkpoint: which one it is about, in words.
        config: as in config.yaml.
        changed: of it what differs from the defaults.
        examples: figures of some test tasks.
        curves: what the run logged.
        rates: the learned rates, by the name of what they serve.
        start: where all of them started, if they have one start.
        reached: names of the parameters that an inner gradient reaches; None if that is not known.
        first_convolution: the name of its weights, if the network has one.
        measured: the metric of test tasks ``[B, S + 1]``, after 0 … S inner steps; None if they are not to be had.
        pairs: the hardest pairs of classes, the hardest first; None where tasks have no classes.
        paths: where agents went, if they moved on a plane.
        missing: why there are no test tasks.
        recorded: results.json, if the run has one.
        commands: that repeat it.
    """

    title: str
    metric: str
    checkpoint: str
    config: dict[str, Any]
    changed: dict[str, Any]
    examples: list[Figure]
    curves: list[Curve]
    rates: dict[str, Tensor]
    start: float | tuple[float, float] | None
    reached: frozenset[str] | None
    first_convolution: str | None
    measured: Tensor | None
    pairs: list[HardPair] | None
    paths: Figure | None
    missing: str
    recorded: dict[str, Any] | None
    commands: list[str]


def page(about: Page) -> str:
    """The whole page; what is put into the template is escaped there."""
    finite = {n: rate for n, rate in about.rates.items() if rate.isfinite().all()}
    moved = {n: float(moved_share(rate, about.start)) for n, rate in finite.items()}
    first = about.first_convolution
    return _template().render(
        title=about.title,
        checkpoint=about.checkpoint,
        metrics=_metrics(about),
        curves=[_svg(curve_figure(curve)) for curve in about.curves],
        by_step=None if about.measured is None else _svg(steps_figure(about.measured, about.metric, "test")),
        missing=about.missing,
        paths=None if about.paths is None else _svg(about.paths),
        rates=[_rates_row(n, rate, moved[n]) for n, rate in finite.items()],
        unmoved=unmoved_in_words(moved, about.reached),
        filters=_svg(filters_figure(finite[first], first)) if first in finite and finite[first].ndim == 4 else None,
        rates_figure=_svg(rates_figure(finite)) if finite else None,
        pairs=None
        if about.pairs is None
        else [
            {"names": pair.names, "files": [[*map(_png, own)] for own in pair.pictures]}
            | {"wrong": pair.wrong, "asked": pair.asked}
            for pair in about.pairs
        ],
        examples=[_svg(figure) for figure in about.examples],
        settings=list(settings_of(about.changed, ("model", "data", "trainer", "seed_everything")).items()),
        config=yaml.safe_dump(about.config, sort_keys=False),
        commands=about.commands,
    )


def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["shown"] = lambda value: printable(value, MOST_SHOWN)
    return environment.from_string(files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8"))


def _metrics(about: Page) -> list[tuple[str, str]]:
    """What was measured, in words: what it is, and its value."""
    rows = []
    if about.measured is not None:
        mean, half = (float(figure) for figure in mean_and_ci95(about.measured[:, -1]))
        what = f"test {about.metric}, {len(about.measured)} tasks, now"
        rows.append((what, _in_words(mean, half, about.metric)))
    if about.recorded is not None:
        mean, half = (about.recorded[f"test/{about.metric}{suffix}"] for suffix in ("", "_ci95"))
        what = f"test {about.metric}, {about.recorded['n_tasks']} tasks, results.json"
        rows.append((what, f"{_in_words(mean, half, about.metric)} ({about.recorded['protocol']['in_words']})"))
    for curve in about.curves:
        if curve.name == about.metric and "val" in curve.of_splits:
            evaluated = [
                (value, step) for step, value in zip(*curve.of_splits["val"], strict=True) if math.isfinite(value)
            ]
            if evaluated:
                value, step = (min if about.metric == "mse" else max)(evaluated, key=lambda found: found[0])
                # what is logged is the number of the last step taken, from 0
                rows.append((f"best val {about.metric}", f"{_in_words(value, None, about.metric)} {after(step + 1)}"))
    return rows


def after(outer_steps: int) -> str:
    """When a checkpoint was written, in words."""
    return f"after {counted(outer_steps, 'outer step')}"


def _in_words(mean: float | None, half: float | None, metric: str) -> str:
    if mean is None or not math.isfinite(mean):
        return "not finite"
    return in_words(mean, half, metric)


def curve_figure(curve: Curve) -> Figure:
    """Training thin, validation in dots."""
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    panel = figure.subplots()
    for split, (steps, values) in curve.of_splits.items():
        style = {"marker": "o", "color": "C1"} if split == "val" else {"linewidth": 0.8, "alpha": 0.8, "color": "C0"}
        panel.plot(steps, values, label=split, **style)
    panel.set(xlabel="outer step", ylabel=curve.name)
    panel.grid(alpha=0.3)
    panel.legend()
    return figure


def rates_figure(rates: dict[str, Tensor]) -> Figure:
    """A line per tensor: thin from its least rate to its greatest, thick between the quartiles; zero marked."""
    figure = Figure(figsize=(9, 1.2 + 0.28 * len(rates)), layout="constrained")
    panel = figure.subplots()
    rows = range(1, len(rates) + 1)
    quantiles = np.array([np.quantile(rate.numpy(), (0, 0.25, 0.5, 0.75, 1)) for rate in rates.values()]).T
    panel.hlines(rows, quantiles[0], quantiles[4], color="C0", linewidth=1)
    panel.hlines(rows, quantiles[1], quantiles[3], color="C0", linewidth=6)
    panel.plot(quantiles[2], rows, "|", color="black", markersize=10)
    panel.set_yticks(rows, [figure_text(name) for name in rates])
    panel.invert_yaxis()
    panel.axvline(0, color="crimson", linewidth=0.8)
    panel.set_xlabel("learning rate: least to greatest, quartiles, median")
    panel.grid(axis="x", alpha=0.3)
    return figure


def _rates_row(name: str, rate: Tensor, moved: float) -> tuple[str, ...]:
    return name, str(rate.numel()), *spread_of(rate), f"{(rate < 0).float().mean():.1%}", f"{moved:.1%}"


def _png(picture: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    pixels = picture.transpose(1, 2, 0)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def _svg(figure: Figure) -> Markup:
    """A drawing by matplotlib, which escapes the text in it."""
    drawing = file_of(figure, "svg", metadata={"Date": None}).decode()
    return Markup(drawing[drawing.index("<svg") :])
