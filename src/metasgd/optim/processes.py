"""One loss for all the processes that train the same weights together."""

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


def agree(
    loss: Tensor | float | None, gradients_are_finite: bool, group: ProcessGroup | None, device: torch.device
) -> tuple[Tensor | float | None, bool]:
    """The mean loss over the processes that have one, and whether the gradients of all are finite.

    The weights of replicas stay the same only if every process steps by the same numbers, and none alone leaves a
    step out. A single process gets back what it gave.

    Args:
        loss: of this process's batch, one number; None where it has none.
        gradients_are_finite: those of this process.
        group: the processes that train the same weights; None for all.
        device: of the weights, where the processes can exchange tensors.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        return loss, gradients_are_finite
    number = math.nan if loss is None else float(loss)
    wide = torch.float32 if device.type == "mps" else torch.float64
    # a loss that is not finite must reach every process as such, beside the number of those that have one
    own = torch.tensor([0.0 if loss is None else number, loss is not None, not gradients_are_finite], dtype=wide)
    total = own.to(device)
    dist.all_reduce(total, group=group)
    losses, having, bad = total.tolist()
    return (losses / having if having else None), not bad
