"""The sums that GPUs take, on the CPU."""

import pytest
import torch

from metasgd.meta.closed_form.batch_norm import BatchNorm, mean_of_means, moments

BY_CHANNEL = (-4, -2, -1)


def images(shape, offset=0.0):
    generator = torch.Generator().manual_seed(len(shape))
    scales = torch.rand(shape[-3], 1, 1, generator=generator, dtype=torch.float64) + 0.5
    return offset + scales * torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6, 5, 7, 3), (2, 6, 5, 7, 3), (3, 1, 4, 2, 2), (2, 5, 3, 1, 1)])
def test_moments_in_two_stages_are_those_of_all_values(shape):
    x = images(shape)
    mean, variance = moments(x, at_once=False)
    torch.testing.assert_close(mean, x.mean(dim=BY_CHANNEL, keepdim=True))
    torch.testing.assert_close(mean_of_means(x), mean)
    torch.testing.assert_close(variance, x.var(dim=BY_CHANNEL, correction=0, keepdim=True))


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_moments_in_float32_are_as_exact_as_in_one_stage(offset):
    x = images((2, 300, 8, 14, 14), offset)
    _, variance = moments(x.float(), at_once=False)
    expected = x.var(dim=BY_CHANNEL, correction=0, keepdim=True)
    plain = x.float().var(dim=BY_CHANNEL, correction=0, keepdim=True)
    assert (variance - expected).norm() <= 2 * (plain - expected).norm() + 1e-6 * expected.norm()


@pytest.mark.parametrize("shape", [(6, 5, 7, 3), (2, 6, 5, 7, 3), (80, 2, 9, 9)])
def test_both_ways_to_normalise_agree(shape, monkeypatch):
    x, layer = images(shape, 2.0), BatchNorm("weight", "bias")
    (here, r), is_cuda = layer._normalised(x), property(lambda _: True)
    monkeypatch.setattr(torch.Tensor, "is_cuda", is_cuda)
    there, other_r = layer._normalised(x)
    monkeypatch.undo()
    torch.testing.assert_close(there, here)
    torch.testing.assert_close(other_r, r)
