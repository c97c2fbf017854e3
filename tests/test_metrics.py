from statistics import NormalDist, mean, stdev

import pytest
import torch

from metasgd.metrics import TaskMean


def test_mean_and_interval_as_the_standard_library_has_them():
    values = [[0.2, 1.0], [0.4, 1.5], [0.9, -3.0], [0.4, 0.25]]
    metric = TaskMean(n_figures=2)
    metric.update(torch.tensor(values[:1]))
    metric.update(torch.tensor(values[1:]))
    found_mean, found_ci95 = metric.compute()
    z = NormalDist().inv_cdf(0.975)
    for j, column in enumerate(zip(*values, strict=True)):
        assert found_mean[j].item() == pytest.approx(mean(column), abs=1e-7)
        assert found_ci95[j].item() == pytest.approx(z * stdev(column) / 2, abs=1e-7)
    assert int(metric.count) == 4


def test_the_order_of_the_meta_batches_does_not_show():
    values = torch.rand(1000, 1)
    one, other = TaskMean(), TaskMean()
    one.update(values)
    for chunk in reversed(values.split(7)):
        other.update(chunk)
    torch.testing.assert_close(one.compute()[0], other.compute()[0], atol=1e-13, rtol=0)
    torch.testing.assert_close(one.compute()[1], other.compute()[1], atol=1e-13, rtol=0)


def test_figures_without_spread_have_an_interval_of_zero():
    metric = TaskMean()
    metric.update(torch.full((10, 1), 0.3))
    assert metric.compute()[1].item() == pytest.approx(0, abs=1e-8)
