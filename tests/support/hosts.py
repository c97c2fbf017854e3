"""A job that several hosts share."""

import torch
from torch import Tensor

JOB_RUN = "runs/sinusoid/version_7"
JOB = ["--ckpt_path", "resume", "--trainer.logger.init_args.version", "7"]
DOUBLE = ["--trainer.precision", "64-true"]


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two states are the same up to the rounding of sums, in float64."""
    assert a.keys() == b.keys()
    return all(torch.allclose(a[n].double(), b[n].double(), rtol=1e-9, atol=1e-12) for n in a)
