"""What an adaptation moves: the parameters that an inner gradient reaches, found by taking the inner steps."""

import copy
from collections.abc import Sequence
from dataclasses import replace

from metasgd.episode import Episode
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import inner_loop_of
from metasgd.nn.chance import without_chance
from metasgd.rules.blocks import block_of

RELATIVE = 1e-10
"""Of the largest inner gradient, in float64: what is below is rounding, as of a bias before BatchNorm."""


def reached(config: InnerLoopConfig, held: Sequence[str], tasks: Episode, inner_steps: int) -> frozenset[str]:
    """Names of the parameters that inner gradients reach: ``{n : max_s |∂L_s/∂θ_n| > 0}``.

    The rate of a parameter that none reaches moves nothing, and has no gradient to learn from. So it is with all layers
    below a class-agnostic head at the first inner step, since its rows start alike.

    Args:
        config: what adapts.
        held: names of the modules that are in evaluation mode while adapting, being random or keeping statistics.
        tasks: inputs as the network takes them; the first task is adapted to, in float64 on the CPU.
        inner_steps: S.
    """
    network, rule = copy.deepcopy(config.network).cpu().double(), copy.deepcopy(config.rule).cpu().double()
    double = replace(config, network=network, rule=rule)
    fields = (field.cpu().double() if field.is_floating_point() else field.cpu() for field in tasks.tasks(0, 1))
    with without_chance(network, held):
        stack = inner_loop_of(double, dict(network.named_parameters()), Episode(*fields))
        steps, _, _ = stack.adapt(inner_steps)
    most = {n: max(float(step.grads[n].abs().max()) for step in steps) for n in (steps[0].grads if steps else ())}
    least = RELATIVE * max(most.values(), default=0.0)
    return frozenset(n for n, g in most.items() if g > least and n in config.adapted)


def rates_reached(moved: frozenset[str]) -> frozenset[str]:
    """What rates may be called that have a gradient: the parameters, their blocks, or all together.

    Args:
        moved: names of the parameters that inner gradients reach.
    """
    return moved | {block_of(n) for n in moved} | ({"all parameters"} if moved else set())


def adapts_in_words(config: InnerLoopConfig, moved: frozenset[str]) -> str:
    """What adapts: ``all``, ``head``, ``nothing (prototypes)``, or how many of the layers.

    Args:
        config: what should adapt.
        moved: names of the parameters that inner gradients reach.
    """
    own = {n.rpartition(".")[0] for n in config.theta}
    layers = {n.rpartition(".")[0] for n in moved}
    head = {n.rpartition(".")[0] for n in config.agnostic} or {n for n in own if n.split(".")[0] == "head"}
    if not layers:
        return "nothing (prototypes)" if config.prototypes is not None else "nothing"
    if layers == own:
        return "all"
    return "head" if layers <= head else f"{len(layers)} of {len(own)} layers"
