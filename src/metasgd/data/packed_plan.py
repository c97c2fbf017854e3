"""Plans on their way to the device that trains: all of a plan's numbers in one tensor."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasgd.data.plan import Plan
from metasgd.data.rng import Split


class PackedPlan:
    """A plan whose numbers are one tensor: one to receive, to pin and to move, where each costs the host its time.

    From another process the numbers come as bytes through a pipe: for each tensor in shared memory, which torch uses
    otherwise, both processes have to agree first, in several messages, amid what else they do.

    Args:
        split: of the plan.
        k_shot: K.
        numbers: ``[n]`` int64, those of all the plan's fields, one after the other.
        shapes: of the fields that the plan has.
        pictures: of the plan, if any.

    Example:
        >>> rows, classes = torch.arange(6).view(1, 2, 3), torch.tensor([[4, 7]])
        >>> packed = PackedPlan.of(Plan("train", 1, rows, classes, torch.tensor([5])))
        >>> packed.numbers
        tensor([0, 1, 2, 3, 4, 5, 4, 7, 5])
        >>> packed.to(torch.device("cpu")).plan().classes
        tensor([[4, 7]])
    """

    def __init__(
        self, split: Split, k_shot: int, numbers: Tensor, shapes: dict[str, torch.Size], pictures: Tensor | None
    ) -> None:
        self.split, self.k_shot = split, k_shot
        self.numbers, self.shapes, self.pictures = numbers, shapes, pictures

    @classmethod
    def of(cls, plan: Plan) -> "PackedPlan":
        """The same plan."""
        fields = plan._replace(pictures=None)._asdict()
        numbers = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
        flat = torch.cat([t.flatten() for t in numbers.values()])
        return cls(plan.split, plan.k_shot, flat, {name: t.shape for name, t in numbers.items()}, plan.pictures)

    def plan(self) -> Plan:
        """The same plan, whose fields are views of ``numbers``."""
        pieces = torch.split(self.numbers, [shape.numel() for shape in self.shapes.values()])
        fields = {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}
        return Plan(self.split, self.k_shot, **fields, pictures=self.pictures)

    def to(self, device: torch.device) -> "PackedPlan":
        """The plan on that device; Lightning calls it as it would a tensor's. From pinned memory the host moves on."""
        ahead = device.type == "cuda"
        pictures = None if self.pictures is None else self.pictures.to(device, non_blocking=ahead)
        return self._with(self.numbers.to(device, non_blocking=ahead), pictures)

    def pin_memory(self) -> "PackedPlan":
        """The plan in pinned memory; torch's loaders call it as they would a tensor's."""
        return self._with(self.numbers.pin_memory(), None if self.pictures is None else self.pictures.pin_memory())

    def _with(self, numbers: Tensor, pictures: Tensor | None) -> "PackedPlan":
        return PackedPlan(self.split, self.k_shot, numbers, self.shapes, pictures)

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_bytes, (self.split, self.k_shot, self.numbers.numpy(), self.shapes, self.pictures)


def _from_bytes(
    split: Split, k_shot: int, numbers: NDArray[np.int64], shapes: dict[str, torch.Size], pictures: Tensor | None
) -> PackedPlan:
    return PackedPlan(split, k_shot, torch.from_numpy(numbers), shapes, pictures)
