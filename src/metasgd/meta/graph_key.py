"""What recorded work depends on beside the values of its tensors: when any of it changes, it is recorded anew."""

from collections.abc import Hashable
from typing import Any

import torch
from torch import nn

from metasgd.episode import Episode
from metasgd.meta.inner_loop import InnerLoopConfig

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
OF_ANY_MODULE = frozenset(vars(nn.Module()))
"""Attributes that every module has, of which those that matter are looked at by name: this runs at every step."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def graph_key(config: InnerLoopConfig, tasks: Episode) -> Hashable:
    """Of the configuration, its modules, the tasks' shapes and torch's settings, what a recording has for good.

    It names objects by ``id``: whoever keeps a key keeps ``config`` as well.
    """
    of_config = id(config.loss), config.adapted, config.unlearned, config.transductive, config.closed_form
    fields = tuple((f.shape, f.dtype, f.device) for f in tasks)
    return of_config, modules_key(config), fields, _settings(tasks.query_x.device.type)


def modules_key(config: InnerLoopConfig) -> Hashable:
    """What the network and the rule are: their modules, plain attributes and hooks, and where their tensors lie."""
    both = (config.network, config.rule)
    # a module that is used once more is named once more
    return tuple(_of_module(m) for whole in both for _, m in whole.named_modules(remove_duplicate=False))


def _of_module(module: nn.Module) -> Hashable:
    own = vars(module)
    others = ((name, value) for name, value in own.items() if name not in OF_ANY_MODULE)
    return (
        id(module),
        type(module),
        module.training,
        tuple((name, value) for name, value in others if _is_plain(value) or _is_function(value)),
        tuple(tuple(own.get(name, ())) for name in HOOKS),
        tuple((n, _place(t)) for held in (module._parameters, module._buffers) for n, t in held.items()),
    )


def _place(tensor: torch.Tensor | None) -> Hashable:
    if tensor is None:
        return None
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)


def _is_function(value: Any) -> bool:
    """An attribute of an instance that stands in the place of a method."""
    return callable(value) and not isinstance(value, nn.Module) and isinstance(value, Hashable)


def _settings(device_type: str) -> Hashable:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    # before torch 2.9 there is one switch for all of cuDNN, which later raises where convolutions differ from the rest
    precisions = (
        (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision)  # type: ignore[attr-defined]
        if hasattr(cudnn, "conv")
        else (cudnn.allow_tf32, matmul.allow_tf32)
    )
    return (
        torch.is_autocast_enabled(device_type),
        torch.get_autocast_dtype(device_type),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        precisions,
    )
