"""One outer gradient of Meta-SGD by metasgd and by each peer, from equal weights on equal tasks.

Every contender is built from a :class:`Work` and leaves the mean gradient over the tasks in ``.grad``.
"""

import importlib
import subprocess
import sys
import tarfile
import types
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from work import CPU, Work

from metasgd.episode import Episode
from metasgd.meta.engine_choice import choose_engine
from metasgd.meta.engines import EngineName, attach_gradient
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import MetaGradient, merge_gradients, meta_gradient
from metasgd.nn.adapting import adapted_names
from metasgd.rules.gradient_descent import PerParameter
from metasgd.runtime.allocator import keep_freed_memory

L2L = "learn2learn-0.2.0"


class Candidate(ABC):
    def __init__(self, work: Work) -> None:
        self.work = work

    @abstractmethod
    def outer_gradient(self, tasks: Episode) -> None:
        """Leave the mean gradient over ``tasks`` in ``.grad``."""

    @abstractmethod
    def parameters(self) -> list[Tensor]:
        """θ, in the network's order."""

    def rates(self) -> list[Tensor]:
        """α in the same order, where the contender learns it."""
        return []

    def grads(self) -> tuple[list[Tensor], list[Tensor]]:
        theta, alpha = (
            [p.grad.clone() for p in part if p.grad is not None] for part in (self.parameters(), self.rates())
        )
        return theta, alpha

    def zero_grad(self) -> None:
        for p in (*self.parameters(), *self.rates()):
            p.grad = None


class Ours(Candidate):
    """metasgd, as its LightningModule calls it."""

    def __init__(
        self,
        work: Work,
        dtype: torch.dtype,
        device: torch.device = CPU,
        engine: EngineName = "auto",
        closed_form: bool = True,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__(work)
        keep_freed_memory()
        network = (network or work.own_network()).to(device, dtype)
        rule, adapted = PerParameter(work.rate), adapted_names(network, "all")
        rule.bind({n: p for n, p in network.named_parameters() if n in adapted}, work.inner_steps)
        loss = F.mse_loss if work.network == "mlp" else F.cross_entropy
        self.config = InnerLoopConfig(network, rule.to(device, dtype), loss, adapted, closed_form=closed_form)
        self.engine, self.reason = choose_engine(engine, network, device)

    def meta_gradient(self, tasks: Episode) -> MetaGradient:
        """Summed over ``tasks``."""
        theta = self.config.theta
        recompute = self.work.inner_steps * tasks.support_y.shape[1] > tasks.query_y.shape[1]

        def on(config: InnerLoopConfig, some: Episode) -> MetaGradient:
            return meta_gradient(config, theta, some, self.work.inner_steps, recompute=recompute)

        return self.engine.run(on, merge_gradients, self.config, tasks, self.work.inner_steps, "meta_gradient")

    def outer_gradient(self, tasks: Episode) -> None:
        found = self.meta_gradient(tasks)
        attach_gradient(found.query_losses.mean(), found, self.config.theta, self.config.phi).backward()

    def parameters(self) -> list[Tensor]:
        return list(self.config.network.parameters())

    def rates(self) -> list[Tensor]:
        rates = self.config.rule.learned_rates()
        return [rates[n] for n, _ in self.config.network.named_parameters()]


class Peer(Candidate):
    """A peer walks the tasks one at a time and lets ``backward`` gather their gradients."""

    def __init__(self, work: Work, dtype: torch.dtype, device: torch.device = CPU) -> None:
        super().__init__(work)
        self.network = work.exported().to(device, dtype)

    def parameters(self) -> list[Tensor]:
        return list(self.network.parameters())

    @staticmethod
    def each(tasks: Episode) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        for b in range(tasks.n_tasks):
            yield tasks.support_x[b], tasks.support_y[b], tasks.query_x[b], tasks.query_y[b]


class Learn2learn(Peer):
    def __init__(self, work: Work, dtype: torch.dtype, device: torch.device = CPU) -> None:
        super().__init__(work, dtype, device)
        self.config = learn2learn_meta_sgd()(self.network, lr=self.work.rate)

    def outer_gradient(self, tasks: Episode) -> None:
        for x, y, query_x, query_y in self.each(tasks):
            clone = self.config.clone()
            for _ in range(self.work.inner_steps):
                clone.adapt(self.work.loss(clone(x), y))
            (self.work.loss(clone(query_x), query_y) / tasks.n_tasks).backward()

    def rates(self) -> list[Tensor]:
        return list(self.config.lrs)


class Higher(Peer):
    """With one rate for all: it takes no tensor of rates per parameter."""

    def outer_gradient(self, tasks: Episode) -> None:
        import higher

        sgd = torch.optim.SGD(self.network.parameters(), lr=self.work.rate)
        for x, y, query_x, query_y in self.each(tasks):
            with higher.innerloop_ctx(self.network, sgd, copy_initial_weights=False) as (network, inner):
                for _ in range(self.work.inner_steps):
                    inner.step(self.work.loss(network(x), y))
                (self.work.loss(network(query_x), query_y) / tasks.n_tasks).backward()


class TorchOpt(Peer):
    """With one rate for all, which does not learn: its ``MetaSGD`` is differentiable SGD."""

    def outer_gradient(self, tasks: Episode) -> None:
        import torchopt

        inner = torchopt.MetaSGD(self.network, lr=self.work.rate)
        start = torchopt.extract_state_dict(self.network, by="reference")
        start_inner = torchopt.extract_state_dict(inner, by="reference")
        for x, y, query_x, query_y in self.each(tasks):
            for _ in range(self.work.inner_steps):
                inner.step(self.work.loss(self.network(x), y))
            (self.work.loss(self.network(query_x), query_y) / tasks.n_tasks).backward()
            torchopt.recover_state_dict(self.network, start)
            torchopt.recover_state_dict(inner, start_inner)


class ParallelMetalearn(Peer):
    """All tasks at once by ``vmap``, with one learned rate per tensor; ``step`` is with an outer rate of zero."""

    def __init__(self, work: Work, dtype: torch.dtype, device: torch.device = CPU) -> None:
        super().__init__(work, dtype, device)
        from metalearn.algorithms import MAML
        from metalearn.inner_optimizers import InnerSGD
        from metalearn.loss.base import BaseLoss
        from metalearn.model_wrappers import MAML_Model

        class Body(nn.Module):
            def __init__(self, layers: nn.Module) -> None:
                super().__init__()
                self.layers = layers

            def forward(self, x: Tensor, **_: object) -> Tensor:
                outputs: Tensor = self.layers(x)
                return outputs

        class Loss(BaseLoss):  # type: ignore[misc] # which has no types
            def forward(self, out_dict: dict[str, Tensor], targets: Tensor, **_: object) -> tuple[Tensor, Tensor]:
                loss = work.loss(out_dict["logits"], targets)
                return loss, loss.detach()

        model = MAML_Model(backbone=Body(self.network), head=Body(nn.Identity()))
        sgd = InnerSGD(model.get_fast_weights(), inner_lr=work.rate, max_inner_steps=work.inner_steps, per_layer=True)
        self.learner = MAML(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
            inner_optimizer=sgd.to(device, dtype),
            support_loss_fn=Loss(),
            inner_steps=work.inner_steps,
            device=device,
        )

    def outer_gradient(self, tasks: Episode) -> None:
        self.learner.step(iter([(tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y)]))


CONTENDERS: dict[str, type[Candidate]] = {
    "metasgd": Ours,
    "learn2learn": Learn2learn,
    "higher": Higher,
    "TorchOpt": TorchOpt,
    "parallel-metalearn": ParallelMetalearn,
}


def unpacked_learn2learn() -> Path:
    """learn2learn's source distribution, fetched by pip and unpacked once into the cache folder."""
    cache = Path("~/.cache/metasgd/benchmarks").expanduser()
    if not (cache / L2L).is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "learn2learn"]
        subprocess.run([*pip, "--dest", str(cache), L2L.replace("-", "==")], check=True)
        with tarfile.open(cache / f"{L2L}.tar.gz") as archive:
            archive.extractall(cache, filter="data")
    return cache / L2L


def learn2learn_meta_sgd() -> type:
    """Its class MetaSGD, imported without the rest of the package, which needs more than there is."""
    root = unpacked_learn2learn() / "learn2learn"
    for name, folder in (("learn2learn", root), ("learn2learn.algorithms", root / "algorithms")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules.setdefault(name, package)
    module = importlib.import_module("learn2learn.algorithms.meta_sgd")
    found: type = module.MetaSGD
    return found
