import itertools

import pytest
import torch

from metasgd.optim.gradients import products_of

LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "channels last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "first axes swapped": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "every second": lambda t: torch.stack([t, t], dim=-1)[..., 0],
}


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 2, 5), (4, 3, 2, 2, 5)])
def test_an_inner_product_is_the_same_however_the_two_lie_in_memory(shape):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = (a * b).sum()
    for first, second in itertools.product(LAYOUTS.values(), repeat=2):
        [found] = products_of([first(a)], [second(b)])
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
