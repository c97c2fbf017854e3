"""What TensorBoard shows of a run on pictures, read back from its events."""

import io

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from metasgd.episode import Episode
from metasgd.nn.networks import MLP, Conv4
from metasgd.reporting.figures import filters_figure, settings_of, steps_figure, task_figure
from metasgd.training.callbacks.tensorboard import first_convolution


@pytest.fixture(scope="module")
def events(drawings_run) -> EventAccumulator:
    return EventAccumulator(str(drawings_run), size_guidance={"images": 0, "histograms": 0}).Reload()


def test_a_run_shows_its_rates_tasks_and_inner_steps_at_each_validation(events):
    tags = events.Tags()
    assert {"rates/body.0.0.weight", "rates/head.bias"} <= set(tags["histograms"])
    assert [e.step for e in events.Histograms("rates/head.weight")] == [29, 59]
    assert events.Histograms("rates/head.weight")[-1].histogram_value.num == 12  # 12 filters of 1×1
    for tag in ("rates/first_convolution", "inner_steps/accuracy", "tasks/0", "tasks/1", "tasks/2"):
        assert [e.step for e in events.Images(tag)] == [29, 59]
        for e in events.Images(tag):
            pixels = np.asarray(Image.open(io.BytesIO(e.encoded_image_string)).convert("L"))
            assert pixels.shape == (e.height, e.width)
            assert pixels.std() > 10  # something is drawn
    assert {"rates/negative_share", "rates/not_finite"} <= set(tags["scalars"])


def test_a_run_says_its_settings_beside_the_best_figure_it_reached(events):
    [best] = events.Scalars("best/accuracy")
    assert best.value == max(e.value for e in events.Scalars("val/accuracy"))
    content = str(events.SummaryMetadata("_hparams_/session_start_info"))
    assert "model.network.width" in content
    assert "data.n_way" in content


def drawn(figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


@pytest.mark.parametrize(("channels", "shots", "queries"), [(1, 1, 15), (3, 7, 2)])
def test_a_task_marks_exactly_the_wrong_answers(channels, shots, queries):
    n = 3
    x = torch.randint(256, (1, n * (shots + queries), channels, 12, 12), dtype=torch.uint8)
    y = torch.arange(n)
    truth = y.repeat_interleave(queries)[None]
    task = Episode(
        x[:, : n * shots],
        y.repeat_interleave(shots)[None],
        x[:, n * shots :],
        truth,
        classes=y[None],
        task_index=torch.zeros(1, dtype=torch.int64),
    )
    predicted = truth[0].clone()
    predicted[0] = 2
    figure = task_figure(task, predicted)
    assert drawn(figure).std() > 10
    [panel] = figure.axes
    assert len(panel.images) == n * (min(shots, 5) + min(queries, 6))
    assert [t.get_text() for t in panel.texts if t.get_ha() == "right"] == ["1", "2", "3"]
    answers = [t for t in panel.texts if t.get_ha() == "center"]
    assert len(answers) == n * min(queries, 6)
    [wrong] = [t for t in answers if t.get_color() != "black"]
    assert wrong.get_text() == "3"
    [frame] = panel.patches
    [framed] = [image for image in panel.images if (image.get_extent()[0], image.get_extent()[3]) == frame.get_xy()]
    np.testing.assert_array_equal(framed.get_array(), task.query_x[0, 0].permute(1, 2, 0).squeeze(-1))
    x, y = wrong.get_position()
    assert frame.get_x() < x < frame.get_x() + frame.get_width()
    assert 0 < frame.get_y() - y < 0.1  # just above it
    assert f"{1 - 1 / (n * queries):.0%} right" in figure.get_suptitle()


@pytest.mark.parametrize(("filters", "channels", "images"), [(5, 1, 5), (100, 1, 64), (20, 3, 60)])
def test_every_filter_has_its_square(filters, channels, images):
    rates = torch.randn(filters, channels, 3, 3)
    figure = filters_figure(rates, "body.0.0.weight")
    squares = figure.axes[0].images
    assert len(squares) == images
    for n, square in enumerate(squares):  # of the same filter below one another
        f, c = divmod(n, channels)
        assert square.get_extent()[0] == f % 8
        assert square.get_extent()[3] == f // 8 * channels + c
        np.testing.assert_array_equal(square.get_array(), rates[f, c])
    most = float(rates[:64].abs().max())
    assert all(square.get_clim() == (-most, most) for square in squares)  # zero is the middle
    assert drawn(figure).std() > 5
    positive = filters_figure(rates.abs() + 1, "body.0.0.weight")
    expected = (float(rates[:64].abs().min()) + 1, most + 1)
    assert positive.axes[0].images[0].get_clim() == pytest.approx(expected)


def test_inner_steps_have_their_mean_and_interval():
    measured = torch.tensor([[0.2, 0.6], [0.4, 1.0]])
    panel = steps_figure(measured, "accuracy").axes[0]
    [line] = [child for child in panel.get_lines() if child.get_marker() == "o"]
    assert list(line.get_ydata()) == pytest.approx([0.3, 0.8])
    assert steps_figure(measured[:1], "accuracy").axes  # a single task has no interval


def test_the_first_convolution_is_found_by_name():
    assert first_convolution(Conv4(width=4, image_size=16)) == "body.0.0.weight"
    assert first_convolution(nn.Conv2d(1, 1, 1)) == "weight"
    assert first_convolution(MLP()) is None


def test_settings_are_flat_and_plain():
    network = {"class_path": "metasgd.nn.Conv4", "init_args": {"width": 8, "head": None}}
    config = {
        "model": {"network": network, "inner_steps": 2},
        "data": {"n_way": 5, "root": "here"},
        "trainer": {"max_steps": 3},
    }
    assert settings_of(config, ("model", "data")) == {
        "model.network": "metasgd.nn.Conv4",
        "model.network.width": 8,
        "model.inner_steps": 2,
        "data.n_way": 5,
    }
