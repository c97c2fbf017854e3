"""What ``LearnedOptimizer`` takes where neither its arguments nor the rule say anything."""

import copy
import logging
import math
from pathlib import Path

from metasgd.errors import UserError
from metasgd.rules.base import UpdateRule
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.rules.scaled_network import ScaledOptimizerNetwork
from metasgd.rules.schedule import Schedule
from metasgd.rules.scheduled_adam import ScheduledAdam

log = logging.getLogger("metasgd")
MAX_UPDATE, MAX_SCALED_UPDATE = 0.1, 0.25
"""The largest norm of an update by an optimizer network, and by a scaled one, relative to the tensor's."""


def rule_of(checkpoint: str | Path | None, update_rule: UpdateRule | None, trust: bool) -> UpdateRule:
    """The update rule in a checkpoint that ``fit`` wrote, or a copy of the one given.

    Raises:
        UserError: not exactly one of them is given, or the rule of the checkpoint cannot be loaded.
    """
    if checkpoint is not None and update_rule is None:
        from metasgd.runs.rules import load_rule  # an optimizer of a given rule needs torch alone

        return load_rule(checkpoint, trust)
    if checkpoint is not None or update_rule is None:
        raise UserError("LearnedOptimizer needs a checkpoint or an update_rule, and not both")
    return copy.deepcopy(update_rule)


SKIPPED = "a gradient is not finite, or its square is not: the step changes nothing; skipped_steps counts such steps"


def ended(rule: UpdateRule) -> str:
    """What is said where a training continues after the steps that the rule was made for."""
    down = getattr(rule, "schedule", None) == "trapezoid"
    then = "the rates have come down to zero" if down else "the rule reads no further progress"
    return f"the {rule.total_steps} steps of total_steps are done, and {then}"


def default_max_update(rule: UpdateRule) -> float:
    """A limit for rules that fit any network, none for rates that were learned on the very parameters they serve."""
    if isinstance(rule, ScaledOptimizerNetwork | ScheduledAdam):
        return MAX_SCALED_UPDATE
    return MAX_UPDATE if isinstance(rule, OptimizerNetwork) else math.inf


def adopt_settings(
    rule: UpdateRule, schedule: Schedule | None, scale_free: bool | None, total_steps: int | None
) -> None:
    """Set the rule's schedule and scale-freedom: as the arguments say, else as the rule says, else the default.

    Raises:
        UserError: the rule has no such setting, or needs ``total_steps`` that are not given.
    """
    scaled = isinstance(rule, ScaledOptimizerNetwork)
    for name, value, having in (
        ("schedule", schedule, isinstance(rule, OptimizerNetwork)),
        ("scale_free", scale_free, scaled),
    ):
        if value is not None and not having:
            raise UserError(
                f"{name} is {value}, but {type(rule).__name__} has no {name}: leave it out, or use a scheduler of torch"
            )
    if schedule is not None and schedule not in ("none", "trapezoid"):
        raise UserError(f"schedule is {schedule}: none or trapezoid is needed")
    if isinstance(rule, ScaledOptimizerNetwork):
        rule.scale_free = next((s for s in (scale_free, rule.scale_free) if s is not None), True)
    if isinstance(rule, OptimizerNetwork):
        said = schedule or rule.schedule
        if said is None and scaled and total_steps is None and not rule.reads_progress:
            log.warning("LearnedOptimizer: total_steps is not given, so the rates follow no schedule")
        rule.schedule = said or ("trapezoid" if scaled and total_steps is not None else "none")
        rule.reads_progress = "progress" in rule.inputs or rule.schedule == "trapezoid"
    if total_steps is None and rule.reads_progress:
        raise UserError(
            f"total_steps is not given, but this {type(rule).__name__} depends on how much of the training is"
            " done: give the number of steps that it will take"
        )
