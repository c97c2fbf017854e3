"""Calling a network with other weights than its own, so that every derivative of the call is exact."""

import contextvars
import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from metasgd.errors import UserError
from metasgd.nn.by_definition import attention, embedding, weight_norm

Slots = Mapping[str, tuple[str, ...]]
"""Of each parameter of a network, by its name, all the places that hold it."""


def slots_of(network: nn.Module) -> Slots:
    """Where each parameter stands: a module that comes under two names counts once, tied parameters several times.

    ``functional_call`` takes such a module for two, and after the call leaves the first one's new weights in it.
    """
    found: dict[int, tuple[str, ...]] = {}
    for prefix, module in network.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                slot = f"{prefix}.{attribute}" if prefix else attribute
                found[id(parameter)] = (*found.get(id(parameter), ()), slot)
    return {name: found[id(parameter)] for name, parameter in network.named_parameters()}


def call(network: nn.Module, params: Mapping[str, Tensor], x: Tensor, slots: Slots | None = None) -> Tensor:
    """``f(params; x)``, the logits of a network that otherwise stays as it is.

    Buffers and inputs reach the network contiguous, as parameters should (see :func:`contiguous`). The inputs are a
    copy, which the network may overwrite.

    Args:
        network: f. Two threads must not call one network at the same time.
        params: parameters and buffers by name; the network's own stand for those that are missing.
        x: ``[X, …]``.
        slots: ``slots_of(network)``, for a caller that has them.

    Raises:
        UserError: the network does not return a tensor, nor anything with one named ``logits``.
    """
    slots = slots_of(network) if slots is None else slots
    weights = {slot: p for name, p in params.items() for slot in slots.get(name, (name,))}
    # those buffers alone that need it: others may change as the network runs
    laid = {n: b.contiguous() for n, b in network.named_buffers() if n not in weights and not b.is_contiguous()}
    weights, x = weights | laid, x.clone(memory_format=torch.contiguous_format)
    with exact_derivatives(network):
        return logits_of(functional_call(network, weights, (x,), tie_weights=False), network)


def contiguous(tensor: Tensor, stacked: bool) -> Tensor:
    """The tensor, such that it, or each part of it that ``vmap`` makes, is contiguous; a copy only where it must be.

    Under ``vmap`` on CUDA, batch normalisation raises on a tensor in ``torch.channels_last``, and on a CPU its float32
    error is then 10 to 100 times as large.
    """
    part = tensor[0] if stacked else tensor
    return tensor if part.is_contiguous() else tensor.contiguous()


def logits_of(outputs: object, network: nn.Module) -> Tensor:
    """The tensor among a network's outputs: they themselves, what is named ``logits``, or the only one.

    Raises:
        UserError: it cannot be known which one is meant.
    """
    if isinstance(outputs, Mapping):
        named = outputs.get("logits")
        parts = list(outputs.values())
    else:
        named = getattr(outputs, "logits", None)
        parts = list(outputs) if isinstance(outputs, tuple | list) else []
    for candidate in (outputs, named, *(parts if len(parts) == 1 else [])):
        if isinstance(candidate, Tensor):
            return candidate
    raise UserError(
        f"{type(network).__name__} returns a {type(outputs).__name__}, where one tensor of outputs is needed: let its"
        " forward return the logits alone, or with the name logits"
    )


def network_copy(network: nn.Module, share: bool = True) -> nn.Module:
    """A copy of a network, whose attributes may be tensors with a graph, as ``torch.nn.utils.weight_norm`` keeps.

    Args:
        network: f.
        share: leave parameters and buffers the same ones, and copy modules and attributes alone.
    """
    memo: dict[int, object] = {id(t): t for t in (*network.parameters(), *network.buffers())} if share else {}
    for module in network.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach()
    return copy.deepcopy(network, memo)


Link = tuple[Mapping[str, object], str, object]
"""Where a module holds a parameter or another module: its own dictionary of them, the name, and what is held."""


def links_of(module: nn.Module) -> list[Link]:
    """All that a module is made of, as it is now."""
    found: list[Link] = []
    for one in module.modules():
        found += [(one._parameters, name, parameter) for name, parameter in one._parameters.items()]
        found += [(one._modules, name, part) for name, part in one._modules.items()]
    return found


def as_linked(links: Iterable[Link]) -> bool:
    """Whether these are still so, as they are not after ``load_state_dict(assign=True)`` or with another layer."""
    return all(held.get(name) is part for held, name, part in links)


@contextmanager
def hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Within, modules have these hooks."""
    with ExitStack() as held:
        for hook in hooks:
            held.enter_context(hook)
        yield


class _SharedSetting:
    """A setting of the whole process, made by the first thread that needs it and taken back by the last.

    Both in one context of context variables: the token by which torch 2.15's ``sdpa_kernel`` resets its variable is
    valid only in the context that set it.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make = make
        self._context = contextvars.Context()
        self._lock = threading.Lock()
        self._users = 0
        self._made = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._context.run(self._made.enter_context, self._make())
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._context.run(self._made.close)


class _ByDefinition(TorchFunctionMode):
    """In this thread, some operations by their definition, where torch's own functions are called.

    Of attention torch's fused kernels have no second derivative, and of weight normalisation a wrong one. Under
    ``vmap`` the row of padding of an embedding has a gradient.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention and not args[0].is_nested:
            return attention(*args, **(kwargs or {}))
        if func is torch._weight_norm:
            return weight_norm(*args, **(kwargs or {}))
        if func is F.embedding:
            return embedding(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def _plain_attention() -> Iterator[None]:
    """In all threads, attention of torch's own layers.

    The fused kernels have no second derivative, and in evaluation mode the fast path has none at all.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


_PLAIN_ATTENTION = _SharedSetting(_plain_attention)
_WITHOUT_CUDNN = _SharedSetting(lambda: torch.backends.cudnn.flags(enabled=False))


@contextmanager
def exact_derivatives(network: nn.Module) -> Iterator[None]:
    """Within, what ``network`` computes has first and second derivatives: attention, and recurrence on a GPU."""
    with ExitStack() as settings:
        settings.enter_context(_PLAIN_ATTENTION())
        settings.enter_context(_ByDefinition())
        if any(isinstance(module, nn.RNNBase) for module in network.modules()):
            settings.enter_context(_WITHOUT_CUDNN())  # its recurrent layers have no second derivative
        yield
