"""The update rule in a checkpoint, built without the network that it was trained on."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from upath import UPath

from metasgd.errors import UserError, first_line
from metasgd.rules.base import UpdateRule, name_of
from metasgd.rules.blocks import block_of
from metasgd.runs.checkpoint_file import read_checkpoint, written_here
from metasgd.runs.class_paths import validate_class_path
from metasgd.runs.compatibility import config_of_run, validate_written
from metasgd.runs.folders import validate_shapes
from metasgd.runs.shipped import checkpoint_named
from metasgd.runs.size_limit import SizeLimit

NEVER_ADAPTING = (".log_scale", ".log_temperature", ".running_mean", ".running_var")
"""What no rule changes: the scales of a ``PrototypeHead``, and statistics."""


def load_rule(path: str | Path | UPath, trust: bool = False) -> UpdateRule:
    """The update rule that ``fit`` saved, with its learned parameters.

    Neither the network nor what trained it is built: the rule's class is called with the options that the checkpoint
    carries, and bound to the names and shapes of the network's tensors in it.

    Args:
        path: of the checkpoint, or the name of one that comes with metasgd.
        trust: import the rule's class from any package, which a checkpoint of the user's own needs not; see
            ``metasgd.load``.

    Raises:
        UserError: the file is no complete checkpoint of this program, names a class of another package without
            ``trust``, or its rule cannot be built here.
    """
    place = UPath(checkpoint_named(path, "checkpoint") if isinstance(path, str) else path)
    content = read_checkpoint(place)
    trust = trust or written_here(place)
    model = config_of_run(place, content)["model"]
    validate_written(place, "update_rule", model["update_rule"])
    tensors = content["state_dict"]
    network = {n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")}
    phi = {n.removeprefix("update_rule."): t for n, t in tensors.items() if n.startswith("update_rule.")}
    what = f"the update rule of the checkpoint {path}"
    try:
        with nullcontext() if trust else SizeLimit(tensors):
            rule = _built(model["update_rule"], trust)
            steps = (model.get("inner_steps") or 1) * (model.get("segments") or 1)
            # PyTorch builds a network in its default type, whatever type the checkpoint has
            bound = {n: t.to(torch.get_default_dtype()) if t.is_floating_point() else t for n, t in network.items()}
            rule.bind({n: bound[n] for n in _names_in(phi, network, model.get("adapts") or "all")}, steps)
    except UserError as error:
        raise error.after(f"{what} cannot be built: ") from error
    except (ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{what} cannot be built: {first_line(error)}. Its class must be"
            " importable here, in the version that it was trained with."
        ) from error
    validate_shapes(place, {"state_dict": phi}, rule)
    rule.load_state_dict(phi)
    return rule


def _built(options: dict[str, Any], trust: bool) -> UpdateRule:
    path = options["class_path"]
    if not trust:
        validate_class_path(path, (UpdateRule,))
    module, _, name = path.rpartition(".")
    rule = getattr(import_module(module), name)(**(options.get("init_args") or {}))
    if not isinstance(rule, UpdateRule):
        raise UserError(f"class_path is {path}, which is no update rule")
    return rule


def _names_in(phi: Mapping[str, Tensor], network: Mapping[str, Tensor], adapts: str | Sequence[str]) -> list[str]:
    """The network's tensors that a rule with parameters φ was bound to, in their order.

    A rule with parameters for each tensor, or each block, has them in a ``ParameterDict`` by their names. All others
    were bound to what ``adapts`` says, as in ``MetaModel``.
    """
    keys = {key.partition(".")[2] for key in phi}  # those of a ParameterDict have no dots, as mlp.0.weight has
    listed = {name_of(key) for key in keys if "." not in key}
    named = listed & network.keys()
    if named:
        return [n for n in network if n in named]
    names = [n for n, t in network.items() if t.is_floating_point() and not n.endswith(NEVER_ADAPTING)]
    names = [n for n in names if block_of(n) in listed] or names
    head = [n for n in names if n.startswith("head.")]
    if adapts in ("head", "body") and head:
        return head if adapts == "head" else [n for n in names if n not in head]
    patterns = [adapts] if isinstance(adapts, str) else adapts
    chosen = [n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns)]
    return chosen or names
