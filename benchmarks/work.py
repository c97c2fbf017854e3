"""An outer step to be timed: the network, the loss and the tasks, alike for all contenders."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metasgd.episode import Episode
from metasgd.nn.networks import MLP, Conv4

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Work:
    """One outer step: which network, on how many tasks of which shape."""

    network: str
    n_tasks: int
    n_way: int
    k_shot: int
    n_query: int
    inner_steps: int
    width: int = 64
    rate: float = 0.01
    """Where every learned rate starts."""
    head: Literal["linear", "class_agnostic"] = "linear"
    """Of metasgd's network; peers' is linear."""

    @property
    def name(self) -> str:
        steps = f"{self.inner_steps} step{'s' * (self.inner_steps > 1)}"
        if self.network == "mlp":
            return f"MLP 1-40-40-1, {self.k_shot}-shot, B={self.n_tasks}, {steps}"
        return f"Conv4-{self.width}, {self.n_way}-way {self.k_shot}-shot, B={self.n_tasks}, {steps}"

    def exported(self) -> nn.Module:
        """The network in torch's own modules, as a peer's user would write it."""
        torch.manual_seed(0)
        if self.network == "mlp":
            return nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
        blocks: list[nn.Module] = []
        for c_in in (1, self.width, self.width, self.width):
            norm = nn.BatchNorm2d(self.width, track_running_stats=False)
            blocks += [nn.Conv2d(c_in, self.width, 3, stride=2, padding=1), norm, nn.ReLU()]
        return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(4 * self.width, self.n_way))

    def own_network(self) -> nn.Module:
        """The same in metasgd's, with the same weights but those of a head that only metasgd has."""
        own = MLP() if self.network == "mlp" else Conv4(n_way=self.n_way, head=self.head, width=self.width)
        plain = zip(own.state_dict().items(), self.exported().state_dict().values(), strict=True)
        own.load_state_dict({name: p if p.shape == start.shape else start for (name, start), p in plain})
        return own

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(outputs, y) if self.network == "mlp" else F.cross_entropy(outputs, y)

    def tasks(self, n_tasks: int, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> Episode:
        generator = torch.Generator().manual_seed(1)
        n, k, q = self.n_way, self.k_shot, self.n_query
        shape = (1,) if self.network == "mlp" else (1, 28, 28)
        support_x, query_x = (torch.rand(n_tasks, n * e, *shape, generator=generator) for e in (k, q))
        if self.network == "mlp":
            support_y, query_y = ((6 * x).sin() for x in (support_x, query_x))
        else:
            support_y, query_y = (torch.arange(n).repeat_interleave(e).repeat(n_tasks, 1) for e in (k, q))
        classes = torch.zeros(n_tasks, n, dtype=torch.int64)
        drawn = Episode(support_x, support_y, query_x, query_y, classes, torch.arange(n_tasks))
        return Episode(*(f.to(device, dtype if f.is_floating_point() else f.dtype) for f in drawn))
