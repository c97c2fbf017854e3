from itertools import product as every

import pytest
import torch

from metasgd.meta.closed_form.products import MANY, add_product, affine, product


def matrices(b, rows, columns, alike):
    one = torch.randn(
        1 if alike else b, rows, columns, generator=torch.Generator().manual_seed(b + rows), dtype=torch.float64
    )
    return one.expand(b, rows, columns)


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("sizes", list(every((1, 4), (1, 2, 5), (1, 3))))
@pytest.mark.parametrize("b", [2, MANY])
def test_the_product_of_each_pair(b, sizes, alike):
    rows, inner, columns = sizes
    left, right = matrices(b, inner, rows, False).mT, matrices(b, inner, columns, alike)
    expected = torch.einsum("bij,bjk->bik", left, right)
    torch.testing.assert_close(product(left, right), expected)
    total = torch.ones_like(expected)
    add_product(total, left, right)
    torch.testing.assert_close(total, 1 + expected)
    bias = matrices(b, 1, columns, alike)[:, 0]
    torch.testing.assert_close(affine(left, right.mT, bias), expected + bias[:, None])
    torch.testing.assert_close(affine(left, right.mT, None), expected)
