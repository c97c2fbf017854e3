"""What fit, validate, test and predict start from: a run's checkpoint, the weights of another, or random ones."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from upath import UPath

from metasgd.data.contents import Contents, as_contents, changes, seen_in_training
from metasgd.data.rng import Split
from metasgd.data.source import ClassSource, Source
from metasgd.errors import UserError
from metasgd.learner.load import load_source
from metasgd.meta.model import MetaModel
from metasgd.nn.networks import prototype_head
from metasgd.runs.checkpoint_file import read_checkpoint
from metasgd.runs.class_paths import PACKAGES
from metasgd.runs.compatibility import (
    other_protocol,
    other_split,
    saved_config,
    validate_same_model,
    validate_same_network,
    validate_same_run,
)
from metasgd.runs.folders import Start, checkpoint_file, validate_shapes
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule
from metasgd.training.rehearsal import monitored_by, rehearse
from metasgd.training.resuming import validate_resumable


def resume(module: MetaSGDModule, start: Start, configured: Mapping[str, Any], fit: bool, max_steps: int) -> None:
    """Check that the command can start from ``start``, and say from what it does.

    Args:
        module: as configured.
        start: what ``--ckpt_path`` means.
        configured: the whole configuration.
        fit: whether training resumes from there.
        max_steps: outer steps of the training.

    Raises:
        UserError: the optimizer or its schedule cannot make outer steps, or the checkpoint is of another model,
            another optimizer, or in a fit of a run with other options.
    """
    optimizer, scheduler = None, None
    if fit:
        optimizer = module.outer.make_optimizer(module.network, module.update_rule, module.learned)
        rehearse(module.outer, optimizer, max_steps)
        scheduler = module.outer.make_scheduler(optimizer, max_steps)
        if isinstance(scheduler, ReduceLROnPlateau):
            monitored_by(scheduler, module.objective)
    path, content = start.checkpoint, start.content
    if path is None:
        return
    validate_shapes(path, content, module)
    validate_same_model(path, content, module.update_rule, configured["model"]["network"])
    validate_resumable(path, content, optimizer, scheduler)
    if fit:
        validate_same_run(path, content, configured)
    rank_zero_info(f"{'resumes' if fit else 'evaluates'} {path} of outer step {start.outer_step}")
    for said in other_protocol(path, content, configured["model"]):
        rank_zero_info(f"unlike its training: {said}")
    if said_of_split := other_split(path, content, configured["data"]):
        rank_zero_info(f"perhaps on classes that it was trained on: {said_of_split}")


def initialise(module: MetaModel, init_from: str, configured: Mapping[str, Any], source: Source, fit: bool) -> Start:
    """Give ``module`` the network and the update rule of a checkpoint; its outer steps are not counted.

    A fit whose network has a prototype head may start from a checkpoint with another head. Then it takes the layers
    below the head alone: learning rates that were learned beside another head say nothing for this one. Of a checkpoint
    that was trained without an inner step a fit takes the network alone: its update rule has learned nothing.

    Args:
        module: of the same architecture; tasks, objective and outer problem may be others.
        init_from: the path of the checkpoint, as ``--init_from`` gives it.
        configured: the whole configuration.
        source: of the tasks to come.
        fit: whether a training starts, and no evaluation.

    Returns:
        the checkpoint, of no run that is resumed.

    Raises:
        UserError: there is no such checkpoint, it is damaged, does not fit, or knows drawings of the other ink.
    """
    path = checkpoint_file(init_from, "--init_from")
    content = read_checkpoint(path)
    config = saved_config(path, content)
    head = prototype_head(module.network)
    new_head = fit and config is not None and head is not None and _other_head(config, configured)
    new_rule = new_head or (fit and config is not None and config["model"].get("inner_steps") == 0)
    if new_rule:
        validate_same_network(path, content, configured["model"]["network"], free=("head",) if new_head else ())
        own_head = f"network.{head[0]}." if new_head and head is not None else None
        content = {**content, "state_dict": _of_network(content["state_dict"], module, own_head)}
    validate_shapes(path, content, module)
    if not new_rule:
        validate_same_model(path, content, module.update_rule, configured["model"]["network"])
    validate_ink(f"--init_from is {init_from}, which", path, content, configured, source)
    module.load_state_dict(content["state_dict"])
    module.outer_steps.zero_()
    rest = ""
    if new_head:
        rest = " below the head; the head and the update rule start as configured"
    elif new_rule:
        rest = ", trained without an inner step; the update rule starts as configured"
    rank_zero_info(f"starts from the weights of {path}{rest}")
    return Start(None, path, content)


def validate_ink(
    named: str, path: UPath, content: Mapping[str, Any], configured: Mapping[str, Any], source: Source
) -> None:
    """Refuse drawings in the other ink than a checkpoint knows.

    Args:
        named: what the message begins with.
        path: of the checkpoint.
        content: of the checkpoint.
        configured: the whole configuration.
        source: of the tasks to come.

    Raises:
        UserError: names both inks.
    """
    config = saved_config(path, content)
    known = None if config is None else _source_of(config, configured)
    if known is not None and isinstance(source, ClassSource) and {known.ink, source.ink} == {"light", "dark"}:
        raise UserError(
            f"{named} was trained on {known.ink} ink, but data.source has {source.ink} ink."
            " Exchange light and dark: of your own pictures, by --data.source.init_args.invert true"
        )


def _other_head(config: Mapping[str, Any], configured: Mapping[str, Any]) -> bool:
    heads = [some["model"]["network"].get("init_args", {}).get("head") for some in (config, configured)]
    return bool(heads[0] != heads[1])


def _of_network(saved: Mapping[str, Tensor], module: MetaModel, own_head: str | None) -> dict[str, Tensor]:
    """The state of ``module`` with the saved tensors of its network, but for a head of its own."""

    def is_saved(name: str) -> bool:
        return name.startswith("network.") and not (own_head is not None and name.startswith(own_head))

    own = {n: t for n, t in module.state_dict().items() if not is_saved(n)}
    return {n: t for n, t in saved.items() if is_saved(n)} | own


def _source_of(config: Mapping[str, Any], configured: Mapping[str, Any]) -> ClassSource | None:
    """The source that a checkpoint was trained on, if its class is of a known package or the configured one."""
    own, saved = (some["data"].get("source") for some in (configured, config))
    known = [own["class_path"]] if isinstance(own, Mapping) and "class_path" in own else []
    path = saved.get("class_path") if isinstance(saved, Mapping) else None
    if path not in known and str(path).partition(".")[0] not in PACKAGES:
        rank_zero_info(f"the ink of the checkpoint's drawings is unknown: {path}, its data source, is not imported")
        return None
    return load_source(config, known=known)


def validate_pictures(start: Start, own: Contents, stage: str) -> None:
    """Refuse to resume a run with other classes or pictures, and to evaluate on classes that were trained on.

    Args:
        start: the checkpoint that the weights are from.
        own: the classes and pictures that are there now.
        stage: ``fit`` or what evaluates.

    Raises:
        UserError: names what changed, or the classes.
    """
    saved = _trained_on(start)
    if not saved or not own or start.checkpoint is None:
        return
    if stage == "fit":
        found = changes(saved, own)
        if found:
            raise UserError(
                f"the checkpoint {start.checkpoint} was trained on other pictures than there are now:"
                f" {'; '.join(found)}. Put them back as they were, or start a new run from its weights with --init_from"
            )
        return
    split: Split = "val" if stage == "validate" else "test"
    seen, certain = seen_in_training(saved, own, split)
    if not seen:
        return
    said = f"{len(seen)} of the {len(own[split])} classes of the {split} split, such as {seen[0]}"
    if certain:
        raise UserError(
            f"the checkpoint {start.checkpoint} was trained on {said}: since then classes were added, removed or split"
            " otherwise. Sort them into train/, val/ and test/ as they were, or train anew"
        )
    rank_zero_info(f"{said}, are called as classes of its training: if they are the same, they are not unseen")


def _trained_on(start: Start) -> Contents:
    state = start.content.get(EpisodicDataModule.__qualname__, {})
    try:
        return as_contents(state["contents"]) if state else {}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the checkpoint {start.checkpoint} cannot be used: what it says of its pictures is damaged ({error}). Give"
            " another, such as checkpoints/best.ckpt or last.ckpt of the same run"
        ) from error


def require_checkpoint(command: str, name: str) -> None:
    """Refuse to evaluate random weights as if they were a learner.

    Args:
        command: validate, test or predict.
        name: of the runs in whose folder a checkpoint may lie.

    Raises:
        UserError: always.
    """
    raise UserError(
        f"--ckpt_path is missing: {command} evaluates a checkpoint. Give last or best, of the newest run of the name"
        f" {name}, or a file; --init_from FILE evaluates the weights of a checkpoint outside of any run"
    )
