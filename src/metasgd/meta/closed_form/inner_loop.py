"""Derivatives in closed form, for a network that is a sequence of known layers: fastest, and no graph to keep."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metasgd.episode import Episode
from metasgd.meta.autograd import AutogradInnerLoop
from metasgd.meta.closed_form.network import FeedForward, Pass
from metasgd.meta.inner_loop import InnerLoopConfig, Tape
from metasgd.rules.base import Params


@dataclass(frozen=True)
class _SupportPass:
    loss: Tensor
    grads: Params
    made: Pass


class ClosedFormInnerLoop(AutogradInnerLoop):
    """Only the query pass with another set's statistics is left to autograd.

    At ``θ_0`` the rows of a class-agnostic head are all the same. The gradient that it passes down is
    ``Σ_c (p_c − y_c) w = 0``: the first inner step moves the head alone, and the passes below it are left out.
    """

    def __init__(self, config: InnerLoopConfig, network: FeedForward, theta: Params, tasks: Episode) -> None:
        super().__init__(config, theta, tasks)
        self.network = network
        lead = len(self.lead)
        self.query_is_known = config.transductive or not network.normalises
        (support_x, support_y), (query_x, query_y) = self.support_set, self.query_set
        self.head = network.layers[-1]
        self.rows_start_alike = (
            config.prototypes is None
            and network.loss.shift_invariant
            and self.head.names <= config.agnostic
            and self.head.weight in self.start
        )
        self.prepared_support = network.prepared(support_x, lead), support_y
        self.prepared_query = (network.prepared(query_x, lead), query_y) if self.query_is_known else self.query_set

    @torch.no_grad()
    def prototype_rows(self, start: Params) -> Params:
        features, _ = self.network.features(self.weights(start, self.shared), self.prepared_support[0])
        return self.rows_of(self._log_scale, features)

    def prototype_rows_vjp(self, lam: Params) -> Params:
        assert self.config.prototypes is not None
        below = self.weights({n: p for n, p in self.start.items() if n not in self.config.rows}, self.shared)
        with torch.no_grad():
            features, saved = self.network.features(below, self.prepared_support[0])
        log_scale, features = self._log_scale.detach().requires_grad_(), features.requires_grad_()
        with torch.enable_grad():
            rows = self.rows_of(log_scale, features)
        outs, cotangents = zip(*((row, lam[n]) for n, row in rows.items() if row.requires_grad), strict=True)
        of_scale, of_features = torch.autograd.grad(outs, (log_scale, features), cotangents)
        with torch.no_grad():
            found = self.network.features_vjp(below, saved, of_features)
        return {**self._of_own_shape(found), f"{self.config.prototypes[0]}.log_scale": of_scale}

    @property
    def _log_scale(self) -> Tensor:
        assert self.config.prototypes is not None
        return self.shared[f"{self.config.prototypes[0]}.log_scale"]

    @torch.no_grad()
    def support(self, params: Params, keep: bool, s: int = 0) -> tuple[Tensor, Params, Tape | None]:
        if keep:
            made = self._recorded(params)
            return made.loss, made.grads, made
        weights = self.weights(params, self.shared)
        loss, _, grads = self.network.gradient(weights, *self.prepared_support, self._moves(params))
        return loss, self._with_zeros(grads), None

    def _recorded(self, params: Params) -> _SupportPass:
        weights = self.weights(params, self.shared)
        loss, grads, made = self.network.recorded_gradient(weights, *self.prepared_support, self._moves(params))
        return _SupportPass(loss, self._with_zeros(grads), made)

    def _moves(self, params: Params) -> frozenset[str]:
        """Names of the parameters whose gradient is not known to be zero at these."""
        return self.config.adapted & self.head.names if self._rows_alike(params) else self.config.adapted

    def _rows_alike(self, params: Params) -> bool:
        return self.rows_start_alike and params is self.start

    def _with_zeros(self, grads: Params) -> Params:
        """The gradients of all that adapts, in the network's order."""
        of = ((n, p) for n, p in self.start.items() if n in self.config.adapted)
        return {n: grads[n] if n in grads else p.new_zeros(()).expand_as(p) for n, p in of}

    @torch.no_grad()
    def vjp(self, params: Params, tape: Tape | None, omega: Params, ell: Tensor | None, s: int = 0) -> Params:
        support: _SupportPass = self._recorded(params) if tape is None else tape
        weights = self.weights(params, self.shared)
        if not omega:
            found = {}
        elif self._rows_alike(params):  # what it adds to the head's rows is left out: over the rows that sums to zero
            found = self.network.hessian_product_below(weights, support.made, omega)
        else:
            found = self.network.hessian_product(weights, support.made, omega)
        if ell is not None:
            if self.shared:
                more = self.network.full_gradient(weights, support.made, ell)
            else:
                more = {n: ell.reshape(ell.shape + (1,) * (g.ndim - ell.ndim)) * g for n, g in support.grads.items()}
            found |= {n: found[n] + g if n in found else g for n, g in more.items()}
        return self._of_own_shape(found)

    @torch.no_grad()
    def query(self, params: Params) -> tuple[Tensor, Tensor]:
        if not self.query_is_known:
            return super().query(params)
        x, y = self.prepared_query
        outputs, _ = self.network.outputs(self.weights(params, self.shared), x)
        return self.network.loss.forward(outputs, y)[0], outputs

    @torch.no_grad()
    def query_and_grads(self, params: Params) -> tuple[Tensor, Tensor, Params]:
        if not self.query_is_known:
            return super().query_and_grads(params)
        weights = self.weights(params, self.shared)
        losses, outputs, grads = self.network.gradient(weights, *self.prepared_query, frozenset(weights))
        return losses, outputs, self._of_own_shape(grads)

    def _of_own_shape(self, found: Params) -> Params:
        """Gradients in shared weights, summed over the tasks and rows that share them."""
        return {n: g.sum_to_size(self.shared[n].shape) if n in self.shared else g for n, g in found.items()}
