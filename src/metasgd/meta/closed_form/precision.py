"""In how many bits products are made that stand for convolutions."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def of_convolutions(device_type: str) -> Iterator[None]:
    """Within, float32 products on CUDA are as exact as torch makes convolutions there, by default in TF32.

    Torch has a switch for each, of the whole process; without this, a network would be of another precision where its
    convolutions are made by products.
    """
    if device_type != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    # before torch 2.9 there are other switches, which later raise where convolutions differ from the rest
    name = "fp32_precision" if hasattr(cudnn, "conv") else "allow_tf32"
    wanted: str | bool = cudnn.allow_tf32 if name == "allow_tf32" else _named(cudnn.conv.fp32_precision)  # type: ignore[attr-defined]
    before = getattr(matmul, name)
    if before == wanted:  # it may be inherited, which would end by setting it
        yield
        return
    setattr(matmul, name, wanted)
    try:
        yield
    finally:
        setattr(matmul, name, before)


def _named(precision: str) -> str:
    """``none`` where nothing was chosen, and that is full precision."""
    return precision if precision == "tf32" else "ieee"
