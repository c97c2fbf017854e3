"""Outer gradients other than the exact one of the inner steps: Reptile's, and the implicit one of their limit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metasgd.episode import Episode
from metasgd.errors import raise_problems, too_small
from metasgd.meta.inner_loop import InnerLoop, InnerLoopConfig
from metasgd.meta.meta_gradient import MetaGradient, collected, inner_loop_of
from metasgd.rules.base import Params

EstimatorName = Literal["unrolled", "reptile", "implicit", "pes"]


@dataclass(frozen=True)
class Estimator:
    """How the outer gradient is found.

    Attributes:
        name: ``unrolled`` goes back through the inner steps; ``reptile`` and ``implicit`` need none of them again;
            ``pes`` is that of ``EvolvedUnroll``.
        solver_steps: of conjugate gradient, for ``implicit``.
    """

    name: EstimatorName = "unrolled"
    solver_steps: int = 10

    def validate(self, proximal: float, first_order: bool, segments: int, fresh: bool, passes: int) -> None:
        """Refuse settings that mean nothing together.

        Args:
            proximal: λ.
            first_order: whether the Hessian term is left out.
            segments: outer steps that an inner run lasts.
            fresh: whether each inner step makes examples of its own, as a policy does.
            passes: outer updates on the same examples.

        Raises:
            UserError: says which.
        """
        problems = too_small(("solver_steps", self.solver_steps, 1), ("proximal", proximal, 0))
        own = self.name != "unrolled"
        if self.name == "implicit" and not proximal:
            problems.append("estimator is implicit, but proximal is 0: it needs a number above, such as 1.0")
        if own and first_order:
            problems.append(f"first_order is true, but estimator {self.name} goes back over no step: use false")
        if segments > 1 and (self.name in ("reptile", "implicit") or proximal):
            problems.append(f"segments is {segments}: it takes estimator unrolled or pes, and proximal 0 alone")
        if segments == 1 and self.name == "pes":
            problems.append("estimator is pes, whose runs last several outer steps, but segments is 1: use more")
        if fresh and self.name == "implicit":
            problems.append("estimator is implicit, but every step makes its own examples: use unrolled or reptile")
        if own and passes > 1:
            problems.append(f"estimator is {self.name}, but passes is {passes}: use unrolled, or 1")
        raise_problems(problems)

    def gradient(self, config: InnerLoopConfig, theta: Params, tasks: Episode, inner_steps: int) -> MetaGradient:
        """The outer gradient by ``reptile`` or ``implicit``; arguments as for ``meta_gradient``."""
        stack = inner_loop_of(config, theta, tasks)
        params, state = stack.start, stack.first_state()
        losses = []
        for s in range(inner_steps):
            step = stack.step(s, params, state, keep=False)
            params, state = stack.after(s, step)
            losses.append(step.loss)
        if self.name == "reptile":
            query_losses, outputs = stack.query(stack.for_query(params))
            found = {n: stack.start[n] - p for n, p in params.items() if n in config.adapted}
        else:
            query_losses, outputs, found = implicit(stack, params, self.solver_steps)
        return collected(stack, tasks, found, {}, losses, query_losses, outputs, {})


def implicit(stack: InnerLoop, solution: Params, solver_steps: int) -> tuple[Tensor, Tensor, Params]:
    """The gradient of the query loss at the solution of the inner problem, by the implicit function theorem.

    ``θ* = argmin L(f(θ'; support)) + λ/2 ‖θ' − θ‖²,  dL(f(θ*; query))/dθ = (I + H/λ)⁻¹ ∇L(f(θ*; query))``

    with H the Hessian of the support loss at θ*, and the system solved by conjugate gradient. It is exact where the
    inner steps have come to the solution, whichever rule took them, and needs none of them again.

    Args:
        stack: the tasks.
        solution: θ*, what the inner steps have come to.
        solver_steps: of conjugate gradient.

    Returns:
        The query losses, the outputs, and the gradient in θ.

    References:
        Rajeswaran, Finn, Kakade, Levine 2019: Meta-Learning with Implicit Gradients, https://arxiv.org/abs/1909.04630
    """
    adapted, pull = stack.config.adapted, stack.config.proximal
    query_losses, outputs, grads = stack.query_and_grads(stack.for_query(solution))
    grads = stack.for_query_vjp(solution, grads)

    def times(x: Params) -> Params:
        """``(I + H/λ) x``."""
        found = stack.vjp(solution, None, x, None)
        return {n: t + found[n] / pull if n in found else t for n, t in x.items()}

    zeros = {n: torch.zeros_like(p) for n, p in solution.items() if n in adapted}
    x = conjugate_gradient(times, {n: grads.get(n, zero) for n, zero in zeros.items()}, solver_steps, len(stack.lead))
    # what does not adapt moves the solution as well: by −(H + λI)⁻¹ ∂g/∂σ
    through = stack.vjp(solution, None, {n: -t / pull for n, t in x.items()}, None)
    found = dict(x)
    for part in (grads, through):
        for n, g in part.items():
            if n not in adapted:
                found[n] = found[n] + g if n in found else g
    if stack.config.prototypes is not None:  # whose rows start from the support set
        rows = {n: found.get(n, torch.zeros_like(p)) for n, p in stack.start.items()}
        for n, g in stack.prototype_rows_vjp(rows).items():
            found[n] = found[n] + g if n in found else g
    return query_losses, outputs, found


def conjugate_gradient(times: Callable[[Params], Params], b: Params, steps: int, lead: int) -> Params:
    """``A⁻¹ b`` for a symmetric positive definite A, from zero on.

    Args:
        times: ``A x``.
        b: by name, each tensor with the same ``lead`` axes of systems that are solved side by side.
        steps: iterations; exact in as many as b has values.
        lead: number of these axes.
    """

    def dot(one: Params, other: Params) -> Tensor:
        return torch.stack([(t * other[n]).flatten(lead).sum(dim=-1) for n, t in one.items()]).sum(dim=0)

    def plus(one: Params, by: Tensor, other: Params) -> Params:
        return {n: t + by.reshape(by.shape + (1,) * (t.ndim - lead)) * other[n] for n, t in one.items()}

    x, r, p = {n: torch.zeros_like(t) for n, t in b.items()}, b, b
    size = dot(r, r)
    for _ in range(steps):
        product = times(p)
        curvature = dot(p, product)
        alpha = torch.where(curvature > 0, size / curvature, 0)  # solved already: nothing is left to add
        x, r = plus(x, alpha, p), plus(r, -alpha, product)
        size, before = dot(r, r), size
        p = plus(r, torch.where(before > 0, size / before, 0), p)
    return x
