"""The page that ``report`` writes: one HTML file that needs nothing beside it."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from metasgd.reporting.metrics import Z95
from metasgd.training.callbacks.tensorboard import settings_of, steps_figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.beside { display: flex; flex-wrap: wrap; gap: 1rem; }
.beside > * { flex: 1 1 24rem; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .9rem; }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #eee; }
td.figure, th.figure { text-align: right; }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto; font-size: .85rem; }
.pair img { height: 48px; margin-right: 3px; image-rendering: pixelated; border: 1px solid #ddd; }
.note { color: #666; }
"""


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
        metric: ``accuracy`` or ``mse``.
        checkpoint: which one it is about, in words.
        config: as in config.yaml.
        curves: what the run logged.
        rates: the learned rates, by the name of what they serve.
        measured: the metric of test tasks ``[B, S + 1]``, after 0 … S inner steps; None if they are not to be had.
        pairs: the hardest pairs of classes, the hardest first.
        missing: why there are no test tasks.
        recorded: results.json, if the run has one.
        commands: that repeat it.
    """

    title: str
    metric: str
    checkpoint: str
    config: dict[str, Any]
    curves: list[Curve]
    rates: dict[str, Tensor]
    measured: Tensor | None
    pairs: list[HardPair]
    missing: str
    recorded: dict[str, Any] | None
    commands: list[str]


def page(about: Page) -> str:
    """The whole page."""
    sections = [
        ("Figures", _figures(about)),
        ("Curves", _beside(_svg(curve_figure(curve)) for curve in about.curves)),
        ("By inner step", _by_step(about)),
        ("Learned rates", _rates(about.rates)),
        ("Hardest pairs", _pairs(about)),
        ("Settings", _settings(about.config)),
        ("Repeat it", _commands(about)),
    ]
    body = "\n".join(f"<section><h2>{title}</h2>\n{content}</section>" for title, content in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(about.title)}</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head>\n"
        f'<body><h1>{escape(about.title)}</h1><p class="note">{escape(about.checkpoint)}</p>\n{body}\n</body></html>\n'
    )


def _figures(about: Page) -> str:
    rows = []
    if about.measured is not None:
        n, mean = len(about.measured), float(about.measured[:, -1].mean())
        half = Z95 * float(about.measured[:, -1].std()) / n**0.5
        rows.append((f"test {about.metric}, {n} tasks, now", _in_words(mean, half, about.metric)))
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
                value, step = (max if about.metric == "accuracy" else min)(evaluated, key=lambda found: found[0])
                # what is logged is the number of the last step taken, from 0
                figure = f"{_in_words(value, None, about.metric)} {after(step + 1)}"
                rows.append((f"best val {about.metric}", figure))
    return _table(("", ""), rows) if rows else '<p class="note">nothing was judged yet</p>'


def after(outer_steps: int) -> str:
    return f"after {outer_steps} outer step{'s' * (outer_steps != 1)}"


def _in_words(mean: float | None, half: float | None, metric: str) -> str:
    if mean is None or not math.isfinite(mean):
        return "not finite"
    scale, unit, digits = (100, " %", 2) if metric == "accuracy" else (1, "", 4)
    interval = "" if half is None else f" ± {scale * half:.{digits}f}"
    return f"{scale * mean:.{digits}f}{interval}{unit}"


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
    panel.set_yticks(rows, list(rates))
    panel.invert_yaxis()
    panel.axvline(0, color="crimson", linewidth=0.8)
    panel.set_xlabel("learning rate: least to greatest, quartiles, median")
    panel.grid(axis="x", alpha=0.3)
    return figure


def _rates(rates: dict[str, Tensor]) -> str:
    finite = {n: rate for n, rate in rates.items() if rate.isfinite().all()}
    if not finite:
        return '<p class="note">this update rule has no learned rates to show</p>'
    rows = [
        (
            n,
            rate.numel(),
            *(f"{v:.4g}" for v in (rate.min(), rate.median(), rate.max())),
            f"{(rate < 0).float().mean():.1%}",
        )
        for n, rate in finite.items()
    ]
    headings = ("parameter", "rates", "least", "median", "greatest", "negative")
    return _svg(rates_figure(finite)) + _table(headings, rows)


def _by_step(about: Page) -> str:
    if about.measured is None:
        return f'<p class="note">no test tasks: {escape(about.missing)}</p>'
    return _svg(steps_figure(about.measured, about.metric, "test"))


def _pairs(about: Page) -> str:
    if about.measured is None:
        return f'<p class="note">no test tasks: {escape(about.missing)}</p>'
    if not about.pairs:
        return '<p class="note">no two classes were taken for each other</p>'
    rows = "".join(
        f'<tr class="pair"><td>{escape(pair.names[0])}<br>{_pictures(pair.pictures[0])}</td>'
        f"<td>{escape(pair.names[1])}<br>{_pictures(pair.pictures[1])}</td>"
        f'<td class="figure">{pair.wrong} of {pair.asked}</td></tr>'
        for pair in about.pairs
    )
    return f'<table><tr><th>class</th><th>taken for</th><th class="figure">queries</th></tr>{rows}</table>'


def _pictures(pictures: Sequence[NDArray[np.uint8]]) -> str:
    return "".join(f'<img alt="" src="data:image/png;base64,{_png(picture)}">' for picture in pictures)


def _png(picture: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    pixels = picture.transpose(1, 2, 0)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def _settings(config: dict[str, Any]) -> str:
    rows = settings_of(config, ("model", "data", "trainer", "seed_everything")).items()
    whole = escape(yaml.safe_dump(config, sort_keys=False))
    return f"{_table(('option', 'value'), rows)}<details><summary>config.yaml</summary><pre>{whole}</pre></details>"


def _commands(about: Page) -> str:
    return f"<pre>{escape(chr(10).join(about.commands))}</pre>"


def _beside(parts: Any) -> str:
    return f'<div class="beside">{"".join(parts)}</div>'


def _table(headings: Sequence[str], rows: Any) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if any(headings) else ''}{body}</table>"


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    drawing = file.getvalue()
    return f"<div>{drawing[drawing.index('<svg') :]}</div>"
