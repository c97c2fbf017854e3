"""One of several networks for each task, all of which take and answer the same shapes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metasgd.errors import UserError


class OneOfSeveral(nn.Module):
    """Task i is of network ``i mod n``: for a rule that is learned on several architectures at once.

    ``forward`` answers the mean of all of them. The estimator ``pes`` alone makes runs of one each.

    Args:
        members: the networks.

    Example:
        >>> networks = OneOfSeveral([nn.Linear(4, 2), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))])
        >>> networks.member_of(3) is networks.members[1], networks(torch.ones(5, 4)).shape
        (True, torch.Size([5, 2]))
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise UserError("members is empty: at least one network is needed")
        self.members = nn.ModuleList(members)

    def member_of(self, task_index: int) -> nn.Module:
        """The network of a task."""
        return self.members[task_index % len(self.members)]

    def forward(self, x: Tensor) -> Tensor:
        """``[X, …]``, the mean over the networks."""
        return torch.stack([member(x) for member in self.members]).mean(dim=0)
