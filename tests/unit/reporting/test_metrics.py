from statistics import NormalDist, mean, stdev

import pytest
import torch

from metasgd.reporting.metrics import TaskMetrics, wilson_interval

VALUES = [[0.2, 1.0], [0.4, 1.5], [0.9, -3.0], [0.4, 0.25]]


def test_mean_and_interval_as_the_standard_library_has_them():
    metric = TaskMetrics()
    metric.update(torch.tensor([0]), torch.tensor(VALUES[:1]))
    metric.update(torch.tensor([1, 2, 3]), torch.tensor(VALUES[1:]))
    found = metric.compute()
    z = NormalDist().inv_cdf(0.975)
    for j, column in enumerate(zip(*VALUES, strict=True)):
        assert found.mean[j].item() == pytest.approx(mean(column), abs=1e-7)
        assert found.ci95[j].item() == pytest.approx(z * stdev(column) / 2, abs=1e-7)


def test_the_order_in_which_tasks_come_does_not_show():
    indices, values = torch.arange(1000), torch.rand(1000, 1)
    one, other = TaskMetrics(), TaskMetrics()
    one.update(indices, values)
    for some in reversed(indices.split(7)):
        other.update(some, values[some])
    assert all(torch.equal(a, b) for a, b in zip(one.compute(), other.compute(), strict=True))
    assert torch.equal(other.compute().by_task, values.double())


def test_figures_without_spread_have_an_interval_of_zero():
    metric = TaskMetrics()
    metric.update(torch.arange(10), torch.full((10, 1), 0.3))
    assert metric.compute().ci95.item() == 0


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (10, 10, 0.7225, 1.0)],
)
def test_wilson_intervals_are_the_published_ones(right, n, low, high):
    """81 of 263: Newcombe 1998, table I; the others from its formula by hand."""
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=1e-4)
