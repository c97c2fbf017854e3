"""What a step of an update rule passes back: the rule's part of the reverse pass over the inner steps."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metasgd.rules.base import Params, State, UpdateRule, key_of
from metasgd.rules.gradient_descent import PerParameter


@dataclass(frozen=True)
class Pulled:
    """Cotangents of a rule's inputs: ``(λ, ν) · ∂u/∂(θ_s, g_s, L_s, m_s, φ)``.

    Attributes:
        params: of ``θ_s``.
        grads: of ``g_s``, where it is not zero.
        loss: of ``L_s``, or None where the rule does not look at it.
        state: of ``m_s``, where it is not zero.
        phi: of φ, summed over tasks, where it is not zero.
    """

    params: Params
    grads: Params
    loss: Tensor | None
    state: State
    phi: Params


def vjp(
    rule: UpdateRule, step: int, params: Params, grads: Params, loss: Tensor, state: State, lam: Params, nu: State
) -> Pulled:
    """Take λ = d outer / d θ_{s+1} and ν = d outer / d m_{s+1} back through inner step s of ``rule``.

    Args:
        rule: u.
        step: s.
        params: ``θ_s``.
        grads: ``g_s``.
        loss: ``L_s``.
        state: ``m_s``.
        lam: λ, of θ's shapes.
        nu: ν, where it is not zero.
    """
    if type(rule) is PerParameter:
        return _of_per_parameter(rule, grads, lam)
    theta, g, m = ({n: t.detach().requires_grad_() for n, t in part.items()} for part in (params, grads, state))
    loss_leaf = loss.detach().requires_grad_()
    phi = {n: p for n, p in rule.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        new_theta, new_m = rule(step, theta, g, loss_leaf, m)
    outputs = [(new_theta[n], lam[n]) for n in new_theta] + [(new_m[n], v) for n, v in nu.items()]
    outs, cotangents = zip(*((out, by) for out, by in outputs if out.requires_grad), strict=True)
    inputs = [*theta.values(), *g.values(), *m.values(), loss_leaf, *phi.values()]
    found = iter(torch.autograd.grad(outs, inputs, cotangents, allow_unused=True))
    of_theta, of_grads, of_state = ({n: next(found) for n in part} for part in (theta, g, m))
    of_loss = next(found)
    return Pulled(
        params={n: torch.zeros_like(theta[n]) if t is None else t for n, t in of_theta.items()},
        grads=_found(of_grads),
        loss=of_loss,
        state=_found(of_state),
        phi=_found({n: next(found) for n in phi}),
    )


def _of_per_parameter(rule: PerParameter, grads: Params, lam: Params) -> Pulled:
    """``λ' = λ, ω = −α ⊙ λ, dα = −g ⊙ λ``, as autograd would find it, at a fraction of the time."""
    alpha = {n: rule.alpha[key_of(n)] for n in grads}
    return Pulled(
        params=lam,
        grads={n: -a.detach() * lam[n] for n, a in alpha.items()},
        loss=None,
        state={},
        phi={
            f"alpha.{key_of(n)}": (grads[n] * lam[n]).sum_to_size(a.shape).neg_()
            for n, a in alpha.items()
            if a.requires_grad
        },
    )


def _found(grads: Mapping[str, Tensor | None]) -> Params:
    return {n: g for n, g in grads.items() if g is not None}
