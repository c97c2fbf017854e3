"""What a network leaves to chance or takes over from earlier batches, found by running it on a small batch."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from metasgd.errors import UserError
from metasgd.nn.behaviour import Params, alike, listed, nudged
from metasgd.nn.calling import call, hooked


class Changing(NamedTuple):
    """Names of the modules that are not the same in every pass of training, and are so in evaluation.

    Attributes:
        random: they draw random numbers, as dropout and stochastic depth do.
        keeping: they keep statistics of the batches that they see, as BatchNorm does, and are evaluated by these.
    """

    random: tuple[str, ...] = ()
    keeping: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.random + self.keeping


def changing_modules(network: nn.Module, x: Tensor) -> Changing:
    """The modules to be left in evaluation mode while a network is adapted. To be called within ``undisturbed``.

    Under ``without_chance`` of these it gives the same for the same, and no pass leaves anything behind.

    Args:
        network: f.
        x: some inputs, ``[X, …]``.

    Raises:
        UserError: it draws random numbers even so, gives different outputs for the same, changes its buffers or
            parameters, or would be evaluated by statistics of no batch; names the modules, those of a kind together.
    """
    params = nudged(network)
    found = Changing()
    with torch.no_grad():
        for mode in ("training", "evaluation"):
            network.train(mode == "training")
            while True:
                for name in found.names:
                    network.get_submodule(name).training = False
                before = {n: t.clone() for n, t in (*network.named_buffers(), *params.items())}
                drawing = [name for name in _drawing(network, params, x) if name not in found.names]
                after = dict(network.named_buffers()) | params
                keeping = [name for name in _changed(before, after) if name not in found.names]
                if mode == "evaluation" or not drawing + keeping:
                    break
                for name in keeping:  # as if this pass had not been: some change at the first one alone
                    _put_back(before, after, name)
                _validate_empty_statistics(network, before, keeping)
                found = Changing((*found.random, *drawing), (*found.keeping, *keeping))
            _validate_state(network, before, after, mode)
            _validate_chance(network, params, x, mode)
    return found


@contextmanager
def without_chance(network: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Within, these modules alone are in evaluation mode."""
    modules = [module for name in names if (module := network.get_submodule(name)).training]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True


def _validate_chance(network: nn.Module, params: Params, x: Tensor, mode: str) -> None:
    drawing = _drawing(network, params, x)
    if not drawing:
        first = call(network, params, _stirred(x, seed=1))
        call(network, params, 1 - 3 * x if x.is_floating_point() else x.flip(0))  # which the next pass must not show
        second = call(network, params, _stirred(x, seed=2))
        if alike(first, second):
            return
    where = f"{listed(network, drawing)} draw random numbers" if drawing else "two passes over the same batch differ"
    raise UserError(
        f"{type(network).__name__} leaves its outputs to chance or to earlier batches in {mode}: {where}, so that an"
        " inner step taken again, or by a resumed run, would be another one, and no meta-gradient exact. Leave that"
        " out, or let it depend on the module's training mode, as nn.Dropout does"
    )


def _validate_empty_statistics(network: nn.Module, buffers: Params, keeping: Iterable[str]) -> None:
    """Refuse modules that would be evaluated by the mean 0 and the variance 1 that they were made with."""
    empty = []
    for name in keeping:
        mean, var = (buffers.get(f"{name}.{n}".lstrip("."), torch.ones(1)) for n in ("running_mean", "running_var"))
        if not mean.any() and bool((var == 1).all()):
            empty.append(name)
    if empty:
        raise UserError(
            f"{type(network).__name__} has running statistics that no batch has entered, and may enter none while it"
            f" adapts, lest one task leak into the next: {listed(network, empty)}. Load pretrained weights, whose"
            " statistics are then held fixed; use track_running_stats=False; or metasgd.nn.Backbone with batch_norm"
            " batch"
        )


def _validate_state(network: nn.Module, before: Params, after: Params, mode: str) -> None:
    owners = _changed(before, after)
    if not owners:
        return
    raise UserError(
        f"{type(network).__name__} changes its own buffers or parameters in a pass in {mode}, which would leak from one"
        f" task into the next: {listed(network, owners)}. Leave that out, or let it depend on the module's training"
        " mode, as nn.BatchNorm2d does"
    )


def _changed(before: Params, after: Params) -> list[str]:
    """Names of the modules whose own buffers or parameters a pass has changed."""
    return list(dict.fromkeys(n.rpartition(".")[0] for n, t in before.items() if _is_changed(t, after.get(n))))


def _put_back(before: Params, after: Params, owner: str) -> None:
    for name, value in before.items():
        if name.rpartition(".")[0] == owner and name in after and after[name].shape == value.shape:
            after[name].copy_(value)


def _is_changed(before: Tensor, after: Tensor | None) -> bool:
    """Whether values are other ones; a table that was made for other lengths may be made anew."""
    if after is None or after.shape != before.shape:
        return False
    return not torch.equal(before.nan_to_num(), after.nan_to_num().to(before))


def _drawing(network: nn.Module, params: Params, x: Tensor) -> list[str]:
    """Names of the modules that draw random numbers themselves, apart from those inside them."""
    names = {module: name for name, module in network.named_modules()}
    inside: list[str] = []
    found: dict[str, None] = {}
    own = _own_generators(network)
    state = [_random_state(x.device, own)]

    def note(name: str) -> None:
        now = _random_state(x.device, own)
        if now != state[0]:
            found[name] = None
            state[0] = now

    def enter(module: nn.Module, args: Any) -> None:  # noqa: ARG001
        if inside:
            note(inside[-1])
        inside.append(names[module])

    def leave(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        note(inside.pop())

    hooks = [module.register_forward_pre_hook(enter, prepend=True) for module in names]
    hooks += [module.register_forward_hook(leave) for module in names]
    with hooked(hooks):
        call(network, params, x)
    return list(found)


def _own_generators(network: nn.Module) -> list[Any]:
    """Sources of random numbers that modules have as attributes."""
    kinds = torch.Generator, random.Random, np.random.Generator
    return [value for module in network.modules() for value in vars(module).values() if isinstance(value, kinds)]


def _random_state(device: torch.device, own: Iterable[Any]) -> tuple[Any, ...]:
    """Of every source of random numbers that a network might use, and of its own."""
    of_device = torch.cuda.get_rng_state(device).numpy().tobytes() if device.type == "cuda" else b""
    numbers: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    of_numpy = numbers["state"]["key"].tobytes(), numbers["state"]["pos"], numbers["has_gauss"]
    return torch.get_rng_state().numpy().tobytes(), of_device, random.getstate(), of_numpy, *map(_state_of, own)


def _state_of(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    return generator.getstate() if isinstance(generator, random.Random) else str(generator.bit_generator.state)


def _stirred(x: Tensor, seed: int) -> Tensor:
    """``x``, with every source of random numbers at another place."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    return x
