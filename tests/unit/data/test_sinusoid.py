from pathlib import Path

import numpy as np
import pytest
import torch

from metasgd.data.sinusoid import Sinusoid, SinusoidSampler
from metasgd.data.task_shape import TaskShape
from metasgd.errors import UserError

NOWHERE = Path("nowhere")


def sampler(split="train", seed=0, shape=TaskShape(1, 5, 10)):  # noqa: B008 - frozen
    return Sinusoid().sampler(split, NOWHERE, NOWHERE, seed, shape)


def test_points_lie_on_their_curves():
    e = sampler().draw(np.arange(50))
    (amplitude, frequency, phase), _ = (a.T for a in sampler().curves(np.arange(50)))
    for x, y in ((e.support_x, e.support_y), (e.query_x, e.query_y)):
        expected = [
            a * np.sin(w * row + b) for a, w, b, row in zip(amplitude, frequency, phase, x.numpy(), strict=True)
        ]
        np.testing.assert_allclose(y.numpy(), expected, atol=1e-5)
    assert e.support_x.shape == (50, 5, 1)
    assert e.query_y.shape == (50, 10, 1)
    assert e.support_x.dtype == torch.float32


def test_ranges_of_the_paper_are_filled():
    curves, x = sampler().curves(np.arange(3000))
    for values, (low, high) in zip((*curves.T, x), ((0.1, 5), (0.8, 1.2), (0, np.pi), (-5, 5)), strict=True):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


def test_more_query_points_keep_the_curve_and_the_support():
    few, many = (SinusoidSampler("test", 1, TaskShape(1, 5, q)).draw(np.arange(3)) for q in (10, 100))
    assert torch.equal(few.support_x, many.support_x)
    assert torch.equal(few.query_y, many.query_y[:, :10])


def test_splits_and_seeds_differ():
    base = sampler().draw(np.arange(3)).support_y
    assert torch.equal(base, sampler().draw(np.arange(3)).support_y)
    assert not torch.equal(base, sampler("val").draw(np.arange(3)).support_y)
    assert not torch.equal(base, sampler(seed=1).draw(np.arange(3)).support_y)


def test_classes_and_alphabets_are_refused():
    with pytest.raises(UserError, match="n_way is 5.*\n.*one_alphabet is true"):
        sampler(shape=TaskShape(5, 1, 1, one_alphabet=True))


def test_the_whole_of_a_task_is_the_same_task():
    task, whole = sampler().draw(np.arange(3)), sampler().draw_whole(np.arange(3), 11)
    assert torch.equal(task.support_x, whole.support_x)
    assert torch.equal(task.support_y, whole.support_y)
    assert whole.query_x[2, :, 0].tolist() == list(range(-5, 6))
    (amplitude, _, phase), _ = (a.T for a in sampler().curves(np.arange(3)))
    np.testing.assert_allclose(whole.query_y[:, 5, 0], amplitude * np.sin(phase), atol=1e-6)
