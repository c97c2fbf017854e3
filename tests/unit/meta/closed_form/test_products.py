from itertools import product as every

import pytest
import torch

from metasgd.meta.closed_form.products import LONG, MANY, add_product, affine, product


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


@pytest.mark.parametrize("terms", [LONG, LONG + 1, 2203, 3 * LONG])  # 2203 is prime
def test_long_sums_are_made_in_pieces_and_no_less_exact_in_float32(terms):
    rows = torch.randn(3, terms, 4, generator=torch.Generator().manual_seed(terms)) + 1
    left, right = rows.mT, rows.flip(1)
    exact = torch.einsum("bji,bjk->bik", left.double().mT, right.double())
    found, plain = product(left, right), torch.bmm(left, right)
    assert (found - exact).norm() <= 1.5 * (plain - exact).norm() + 1e-7 * exact.norm()
    torch.testing.assert_close(product(left.double(), right.double()), exact)
    total = torch.ones_like(exact)
    add_product(total, left.double(), right.double())
    torch.testing.assert_close(total, 1 + exact)
