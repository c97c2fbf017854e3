"""A network run from the output of one of its modules on, with NaN for all that came before."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metasgd.nn.unseen import unseen

Outputs = Any
"""What a module gives: a tensor, or several in tuples and lists."""
Form = Callable[[Tensor], Outputs]
"""Of h, what a module gave whose output is not needed: NaN, in the shape for so many examples."""


@dataclass(frozen=True)
class Suffix:
    """g, in place of the forward of a network: its modules up to h are not run.

    Attributes:
        network: f; in a copy of it, that copy.
        skipped: of the outermost modules that h takes, in the order of their calls, the name and what they would give;
            of the last, h.
        input: the shape and the dtype of an example.
        own: the network's own forward, where that is set on it and is not its class's.
        tried: raise where the network reads what was before h. Where it has been tried so, it need not be again.
    """

    network: nn.Module
    skipped: tuple[tuple[str, Form], ...]
    input: tuple[tuple[int, ...], torch.dtype]
    own: Callable[..., Outputs] | None
    tried: bool = False

    def __call__(self, h: Tensor) -> Outputs:
        left = list(self.skipped)
        hidden = unseen if self.tried else _as_it_is

        def instead(name: str, forward: Callable[..., Outputs]) -> Callable[..., Outputs]:
            def run(*args: Any, **options: Any) -> Outputs:
                if not left:
                    return forward(*args, **options)
                expected, form = left.pop(0)
                if expected != name:
                    raise RuntimeError(f"{name} is called where {expected} was before")
                return hidden(form(h)) if left else h.clone()  # which the next module may overwrite

            return run

        with ExitStack() as replaced:
            for name in dict.fromkeys(name for name, _ in self.skipped):
                module = self.network.get_submodule(name)
                replaced.callback(set_back, module, vars(module).get("forward"))
                module.forward = instead(name, module.forward)
            shape, dtype = self.input
            own = self.own or partial(type(self.network).forward, self.network)
            return own(hidden(_unknown(h, shape, dtype)))


def set_back(module: nn.Module, forward: Callable[..., Outputs] | None) -> None:
    """Take back that a module has another forward; before, one of its own was set on it, or none."""
    del module.forward
    if forward is not None:
        module.forward = forward


def form_of(output: Outputs, n: int) -> Form:
    """The form of what a module gave for n examples."""
    if isinstance(output, list):
        return partial(_each, tuple(form_of(part, n) for part in output))
    if output is None:
        return _nothing
    if not (isinstance(output, Tensor) and output.is_floating_point()):
        return _whole_numbers
    shape, dtype = tuple(output.shape), output.dtype
    if shape[:1] == (n,):
        return partial(_unknown, shape=shape[1:], dtype=dtype)
    return partial(_unknown_once, shape=shape, dtype=dtype)


def _as_it_is(outputs: Outputs) -> Outputs:
    return outputs


def _each(forms: tuple[Form, ...], h: Tensor) -> Outputs:
    return tuple(form(h) for form in forms)


def _nothing(h: Tensor) -> Outputs:  # noqa: ARG001
    return None


def _unknown_once(h: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The same for any number of examples."""
    return torch.full((), torch.nan, dtype=dtype, device=h.device).expand(shape)


def _unknown(h: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """NaN in the shape ``[X, *shape]``, in the memory of one number."""
    return torch.full((), torch.nan, dtype=dtype, device=h.device).expand(len(h), *shape)


def _whole_numbers(h: Tensor) -> Outputs:  # noqa: ARG001
    raise RuntimeError("whole numbers cannot be NaN")
