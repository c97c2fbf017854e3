"""Derivatives by autograd: for any network and any loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import vmap

from metasgd.episode import Batch, Episode, Outputs, as_given
from metasgd.errors import some_of
from metasgd.meta.inner_loop import InnerLoop, InnerLoopConfig, Loss, Tape
from metasgd.nn.calling import call, contiguous
from metasgd.nn.networks import statistics_from_first
from metasgd.rules.base import Params


@dataclass(frozen=True)
class _Graph:
    """A support pass with its graph, from the leaves ``params`` and ``shared`` to ``loss`` and ``grads``."""

    params: Params
    shared: Params
    loss: Tensor
    grads: Params


class AutogradInnerLoop(InnerLoop):
    """One task runs plainly, several under ``vmap``."""

    def support(self, params: Params, keep: bool, s: int = 0) -> tuple[Tensor, Params, Tape | None]:
        graph = self._support(params, keep, s)
        return graph.loss.detach(), _detached(graph.grads), graph if keep else None

    def _support(self, params: Params, keep: bool, s: int) -> _Graph:
        # without a tape nothing asks for the gradient of what does not adapt, which would keep all activations below it
        params, shared = leaves(params), self._shared_leaves() if keep else self.shared
        loss, found = self._loss_and_grads(params, shared, keep, s)
        return _Graph(params, shared, loss, zeros_where_unused(params, found))

    def _loss_and_grads(
        self, params: Params, shared: Params, create_graph: bool, s: int
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """The support loss at leaves, and its gradient in each of ``params``: None where it depends on it in no way."""
        x, y = self.examples(self.support_set, params, s)
        with torch.enable_grad():
            loss = self._losses(self._outputs(params, shared, x), y)
            at = list(params.values())
            return loss, torch.autograd.grad(loss.sum(), at, create_graph=create_graph, allow_unused=True)

    def unused(self) -> list[str]:
        """Names of what adapts that the support loss does not depend on."""
        params = leaves(self.start)
        _, found = self._loss_and_grads(params, self.shared, create_graph=False, s=0)
        return [n for n, g in zip(params, found, strict=True) if g is None]

    def vjp(self, params: Params, tape: Tape | None, omega: Params, ell: Tensor | None, s: int = 0) -> Params:
        graph: _Graph = self._support(params, True, s) if tape is None else tape
        outputs = [(graph.grads[n], w) for n, w in omega.items()]
        if ell is not None:
            outputs.append((graph.loss, ell))
        return _vjp([(out, by) for out, by in outputs if out.requires_grad], graph.params, graph.shared)

    def prototype_rows(self, start: Params) -> Params:
        with torch.no_grad():
            return self._rows(start, self.shared)

    def prototype_rows_vjp(self, lam: Params) -> Params:
        params = leaves({n: p for n, p in self.start.items() if n not in self.config.rows})
        shared = self._shared_leaves()
        with torch.enable_grad():
            rows = self._rows(params, shared)
        return _vjp([(row, lam[n]) for n, row in rows.items() if row.requires_grad], params, shared)

    def _rows(self, params: Params, shared: Params) -> Params:
        assert self.config.prototypes is not None
        name, head = self.config.prototypes
        # the head is called too, with rows of no consequence: what it reads is what is wanted
        fixed = {**self.weights({}, shared), **{n: self.config.theta[n] for n in self.config.rows}}

        def features(params: Params, x: Tensor) -> Tensor:
            read: list[Tensor] = []
            hook = head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
            try:
                call(self.config.network, {**fixed, **params}, x, self.config.slots)
            finally:
                hook.remove()
            return read[0].flatten(1)

        x = self.support_set[0]
        found = vmap(features)(params, x) if self.lead else features(params, x)
        log_scale = shared[f"{name}.log_scale"]
        return self.rows_of(log_scale, found.to(log_scale.dtype))

    def query(self, params: Params) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self._query(params, self.shared)

    def query_and_grads(self, params: Params) -> tuple[Tensor, Tensor, Params]:
        params, shared = leaves(params), self._shared_leaves()
        with torch.enable_grad():
            losses, outputs = self._query(params, shared)
        grads = _vjp([(losses, torch.ones_like(losses))], params, shared)
        return losses.detach(), outputs.detach(), grads

    def _query(self, params: Params, shared: Params) -> tuple[Tensor, Tensor]:
        x, y = self.examples(self.query_set, params)
        if self.config.transductive:
            outputs = self._outputs(params, shared, x)
        else:
            axis = len(self.lead)
            seen = self.support_set[0].shape[axis]
            with statistics_from_first(self.config.network, seen):
                both = self._outputs(params, shared, torch.cat([self.support_set[0], x], dim=axis))
            outputs = both.narrow(axis, seen, x.shape[axis])
        return self._losses(outputs, y, self.config.query_loss), outputs

    @torch.no_grad()
    def examples(self, given: Batch, params: Params, s: int = 0) -> Batch:
        """What the loss at ``params`` is taken on, at inner step s."""
        return self.config.experience(given, s, self.policy(params))

    def policy(self, params: Params) -> Outputs:
        """``x ↦ f(params; x)``, each task's own weights on its own inputs."""
        dtype = next(iter(params.values())).dtype
        return lambda x: self._outputs(params, self.shared, x.to(dtype))

    def _outputs(self, params: Params, shared: Params, x: Tensor) -> Tensor:
        fixed = {n: contiguous(t, False) for n, t in self.weights({}, shared).items()}
        params = {n: contiguous(t, bool(self.lead)) for n, t in params.items()}
        network, slots = self.config.network, self.config.slots

        def of_one(params: Params, x: Tensor) -> Tensor:
            return call(network, {**fixed, **params}, x, slots)

        return vmap(of_one)(params, x) if self.lead else of_one(params, x)

    def _shared_leaves(self) -> Params:
        """What does not adapt, without a gradient where it is frozen."""
        frozen = self.config.frozen
        return {n: t.detach().requires_grad_(n not in frozen) for n, t in self.shared.items()}

    def _losses(self, outputs: Tensor, y: Tensor, other: Loss | None = None) -> Tensor:
        loss = other or self.config.loss
        return vmap(loss)(outputs, y) if self.lead else loss(outputs, y)


def as_supervised(config: InnerLoopConfig, tasks: Episode) -> tuple[InnerLoopConfig, Episode]:
    """The same with the examples of the first inner step held fast, as the network is: tasks of supervised learning."""
    if config.experience is as_given:
        return config, tasks
    loop = AutogradInnerLoop(config, config.theta, tasks)
    (support_x, support_y), (query_x, query_y) = (
        (x, y) if loop.lead else (x[None], y[None])
        for x, y in (loop.examples(given, loop.start) for given in (loop.support_set, loop.query_set))
    )
    made = Episode(support_x, support_y, query_x, query_y, tasks.classes, tasks.task_index)
    return replace(config, experience=as_given), made


def leaves(tensors: Params) -> Params:
    """The same values, to be differentiated with respect to."""
    return {n: t.detach().requires_grad_() for n, t in tensors.items()}


def _detached(tensors: Params) -> Params:
    return {n: t.detach() for n, t in tensors.items()}


def _vjp(outputs: list[tuple[Tensor, Tensor]], params: Params, shared: Params) -> Params:
    """``Σ cotangent · ∂output/∂input`` over the pairs (output, cotangent), for every input it reaches."""
    if not outputs:
        return {}
    inputs = params | {n: t for n, t in shared.items() if t.requires_grad}
    outs, cotangents = zip(*outputs, strict=True)
    found = torch.autograd.grad(outs, list(inputs.values()), cotangents, allow_unused=True)
    return {n: g for n, g in zip(inputs, found, strict=True) if g is not None}


def zeros_where_unused(params: Mapping[str, Tensor], grads: Sequence[Tensor | None]) -> Params:
    """The gradients by name; of a parameter that the loss of these tasks does not depend on it is zero."""
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(params.items(), grads, strict=True)}


def unused_parameters(config: InnerLoopConfig, tasks: Episode) -> str | None:
    """A line on the parameters that should adapt and that the loss of the first of ``tasks`` does not depend on."""
    task = AutogradInnerLoop(config, dict(config.network.named_parameters()), tasks.tasks(0, 1))
    names = task.unused()
    return (
        f"no gradient reaches {some_of(names, 5)}: the loss of the first task does not depend on them, and"
        " they adapt only in a task whose loss does"
        if names
        else None
    )
