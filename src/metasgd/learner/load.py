"""A meta-trained learner out of a checkpoint alone."""

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, overload

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from upath import UPath

from metasgd.data.source import ClassSource, Source
from metasgd.errors import UserError, first_line
from metasgd.learner.ensemble import EnsembleLearner
from metasgd.learner.meta_learner import MetaLearner
from metasgd.meta.model import MetaModel
from metasgd.meta.objectives import Objective
from metasgd.meta.persistent_evolution import PersistentEvolution
from metasgd.nn.backbones.weight_files import weights_follow
from metasgd.rl.environment import Environment
from metasgd.rules.base import UpdateRule
from metasgd.runs.checkpoint_file import read_checkpoint, written_here
from metasgd.runs.class_paths import validate_class_path
from metasgd.runs.compatibility import config_of_run, validate_written
from metasgd.runs.folders import validate_shapes
from metasgd.runs.shipped import checkpoint_named
from metasgd.runs.size_limit import SizeLimit

Place = str | Path | UPath
KINDS = (nn.Module, Source, Optimizer, LRScheduler, Objective, Environment, PersistentEvolution)
"""What a configuration is built of."""
ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError),
    *(RuntimeError, TypeError, ValueError),
)
"""What constructors raise at options that make no sense to them."""


@overload
def load(
    path: Place, trust: bool = False, network: nn.Module | None = None, update_rule: UpdateRule | None = None
) -> MetaLearner: ...


@overload
def load(path: list[Place] | tuple[Place, ...], trust: bool = False) -> EnsembleLearner: ...


def load(
    path: Place | list[Place] | tuple[Place, ...],
    trust: bool = False,
    network: nn.Module | None = None,
    update_rule: UpdateRule | None = None,
) -> MetaLearner | EnsembleLearner:
    """Build again what ``fit``, or a Trainer with a ``MetaSGDModule``, saved.

    It is built from the configuration that the checkpoint carries. Of the classes that it names, only the network and
    the update rule are built; what trained them is not. Offered as ``metasgd.load``.

    Args:
        path: of the checkpoint, or the name of one that comes with metasgd, as ``"omniglot"``; a list or tuple of
            several makes an ensemble of them.
        trust: import any class that the checkpoint names. Without it, a checkpoint that this user did not write may
            name only those of this package, torch, torchvision, lightning and timm, so that it cannot run code.
        network: made as for the training, where the checkpoint cannot say how: it gets the saved weights.
        update_rule: the same of the update rule.

    Raises:
        UserError: the file is no complete checkpoint of this program, names a class of another package without
            ``trust``, or its model cannot be built here.

    Example:
        >>> learner = load("sinusoid")
        >>> learner.adapt([[0.0], [1.0], [2.0]], [0.0, 0.8, 0.9]).predict([[1.5]]).shape
        (1, 1)
    """
    if isinstance(path, list | tuple):
        if network is not None or update_rule is not None:
            raise UserError("network and update_rule are of one checkpoint: load each by itself")
        return EnsembleLearner(tuple(load(one, trust) for one in path))
    path = UPath(checkpoint_named(path, "path") if isinstance(path, str) else path)
    given = {"network": network, "update_rule": update_rule}
    return learner_of(path, read_checkpoint(path), trust, {n: made for n, made in given.items() if made is not None})


def learner_of(
    path: UPath, content: dict[str, Any], trust: bool = False, replaced: Mapping[str, Any] = {}
) -> MetaLearner:
    """The learner of a checkpoint that was read before.

    Args:
        path: of the checkpoint.
        content: of the checkpoint.
        trust: as for ``load``.
        replaced: options of the model in place of those that the checkpoint carries.

    Raises:
        UserError: as ``load``.
    """
    trust = trust or written_here(path)
    config = config_of_run(path, content)
    options = {name: value for name, value in {**config["model"], **replaced}.items() if name != "outer"}
    for name in ("network", "update_rule"):
        validate_written(path, name, options[name])
    what, weights = f"the model of the checkpoint {path}", content["state_dict"]
    with weights_follow():
        model: MetaModel = built(MetaModel, options, what, trust, weights=weights)
    validate_shapes(path, content, model)
    model.load_state_dict(content["state_dict"])
    return MetaLearner(model, config, trust)


def load_source(config: Mapping[str, Any], trust: bool = False, known: Collection[str] = ()) -> ClassSource | None:
    """The source of the classes that a run was trained on; None for a source of something else.

    Args:
        config: of a checkpoint.
        trust: import any class that it names.
        known: class paths that the user's own configuration names.

    Raises:
        UserError: it cannot be built here.
    """
    source = built(Source, config["data"].get("source"), "the data source of the checkpoint", trust, known)
    return source if isinstance(source, ClassSource) else None


def built(
    kind: type,
    options: Any,
    what: str,
    trust: bool,
    known: Collection[str] = (),
    weights: Mapping[str, Tensor] = {},
) -> Any:
    """An object out of the configuration that a checkpoint carries.

    Args:
        kind: its class, or, if that is abstract, the base of the class that the options name.
        options: as in a configuration file.
        what: it is, for messages.
        trust: import any class that the options name.
        known: class paths that the user's own configuration names.
        weights: of the checkpoint, which say how large the object can be.

    Raises:
        UserError: a class is not to be imported, or the object cannot be built.
    """
    from jsonargparse import ArgumentError, ArgumentParser  # which takes long to import

    from metasgd.learner.checked_imports import imports_checked

    parser = ArgumentParser(exit_on_error=False)
    if kind is Source:
        parser.add_argument("--made", type=Source)
    else:
        parser.add_class_arguments(kind, "made")
    check = partial(validate_class_path, kinds=KINDS, known=known)
    try:
        if trust:
            return parser.instantiate(parser.parse_object({"made": options})).made
        with imports_checked(check), SizeLimit(weights):
            return parser.instantiate(parser.parse_object({"made": options})).made
    except UserError as error:
        raise error.after(f"{what} cannot be built: ") from error
    except (ArgumentError, *ERRORS) as error:
        raise UserError(
            f"{what} cannot be built: {first_line(error)}. Its own classes must be"
            " importable here, in the versions that it was trained with."
        ) from error
