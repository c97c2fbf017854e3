"""Products that stand for convolutions are of the precision of convolutions."""

import pytest
import torch

from metasgd.meta.closed_form.precision import of_convolutions

CUDNN, MATMUL = torch.backends.cudnn, torch.backends.cuda.matmul


@pytest.fixture(autouse=True)
def as_before():
    convolutions, products = CUDNN.allow_tf32, MATMUL.allow_tf32
    yield
    CUDNN.allow_tf32, MATMUL.allow_tf32 = convolutions, products


def in_tf32():
    """Whether products are made in TF32, by either of torch's two ways of asking."""
    return MATMUL.fp32_precision == "tf32" if hasattr(CUDNN, "conv") else MATMUL.allow_tf32


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("convolutions", [False, True])
def test_products_are_as_exact_as_convolutions_within_and_as_before_after(convolutions, products):
    CUDNN.allow_tf32, MATMUL.allow_tf32 = convolutions, products
    with of_convolutions("cuda"):
        assert in_tf32() == convolutions
    assert MATMUL.allow_tf32 == products
    assert CUDNN.allow_tf32 == convolutions


def test_the_cpu_has_no_such_switch():
    with of_convolutions("cpu"):
        assert not in_tf32()


def test_an_error_within_leaves_the_switches_as_they_were():
    with pytest.raises(ZeroDivisionError), of_convolutions("cuda"):
        1 / 0  # noqa: B018
    assert not MATMUL.allow_tf32
