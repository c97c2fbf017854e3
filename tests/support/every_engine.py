"""A rule's meta-gradient by every engine, in closed form and by autograd, against one graph written out by hand."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from metasgd.episode import Episode
from metasgd.meta.engines import Engine, Loop, Threads, Vmap
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import MetaGradient, merge_gradients, meta_gradient
from support.by_hand import Params, unrolled

ENGINES: Sequence[Callable[[], Engine]] = (Loop, lambda: Vmap(2), lambda: Threads(2))


def validate_exact(
    config: InnerLoopConfig,
    tasks: Episode,
    inner_steps: int,
    equation: Callable[[int, Params, Params, Tensor, Params], tuple[Params, Params]],
    first_order: bool = False,
) -> Params:
    """Assert that every engine finds the unrolled gradient; return that in φ.

    Args:
        config: what adapts, with a network that has closed forms.
        tasks: more than one.
        inner_steps: S.
        equation: of the rule, as ``unrolled`` takes it.
        first_order: leave out the Hessian term.
    """
    loss, theta, phi = unrolled(config, tasks, inner_steps, equation, first_order)
    assert config.feed_forward is not None

    def on(own: InnerLoopConfig, part: Episode) -> MetaGradient:
        return meta_gradient(own, config.theta, part, inner_steps, first_order)

    for closed_form in (True, False):
        for make in ENGINES:
            found = make().run(on, merge_gradients, replace(config, closed_form=closed_form), tasks, inner_steps)
            torch.testing.assert_close(found.query_losses.sum(), loss, atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(found.theta, theta, atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(found.phi, phi, atol=1e-9, rtol=1e-9)
    return phi
