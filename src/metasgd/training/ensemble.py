"""Several checkpoints evaluated together: the others beside the one that the command is configured for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from metasgd.data.source import Source
from metasgd.errors import UserError, at_argument, raise_problems
from metasgd.learner.load import learner_of
from metasgd.meta.model import MetaModel
from metasgd.nn.validation import validate_ways
from metasgd.runs.compatibility import PROTOCOL, other_protocol, other_split, saved_config
from metasgd.runs.folders import Start
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.start import validate_ink, validate_pictures


@dataclass(frozen=True)
class Member:
    """A model of an ensemble, and the checkpoint that it is from."""

    model: MetaModel
    start: Start

    def about(self) -> dict[str, Any]:
        """What ``results.json`` says of it."""
        return {
            "checkpoint": str(self.start.checkpoint),
            "outer_steps": int(self.model.outer_steps),
            "network": type(self.model.network).__name__,
            "update_rule": type(self.model.update_rule).__name__,
            "inner_steps": self.model.eval_inner_steps,
        }


def joined(
    own: MetaModel, first: Start, others: Sequence[Start], configured: Mapping[str, Any], source: Source
) -> list[Member]:
    """The models of some checkpoints, each built from the configuration that it carries, for the same tasks.

    What of the protocol is configured otherwise than the first was trained with is the same for all of them, and so is
    ``transductive``; their own are the network, the update rule and the inner steps.

    Args:
        own: the configured model, which has the weights of ``first``.
        first: its checkpoint.
        others: the other checkpoints.
        configured: the whole configuration.
        source: of the tasks.

    Returns:
        All of them, ``own`` first.

    Raises:
        UserError: one cannot be built, or is of another loss or of drawings in the other ink.
    """
    if not others:
        return [Member(own, first)]
    assert first.checkpoint is not None
    known = saved_config(first.checkpoint, first.content)
    trained = configured["model"] if known is None else known["model"]
    asked = {name: configured["model"][name] for name in PROTOCOL if name in configured["model"]}
    changed = {name: value for name, value in asked.items() if name in trained and value != trained[name]}
    protocol = {"transductive": asked["transductive"], **changed}
    members, problems = [Member(own, first)], list[str]()
    for start in others:
        assert start.checkpoint is not None
        named = f"the checkpoint {start.checkpoint}"
        try:
            learner = learner_of(start.checkpoint, start.content, replaced=protocol)
            validate_ink(named, start.checkpoint, start.content, configured, source)
        except UserError as error:
            problems += error.problems
            continue
        if other := other_split(start.checkpoint, start.content, configured["data"]):
            problems.append(
                f"{named} was trained on other classes, and perhaps on some of those to test on: {other}. Give"
                " checkpoints of the same split; adapt takes both"
            )
        if learner.model.objective != own.objective:
            problems.append(f"{named} was trained for {learner.model.objective.metric}, and not {own.objective.metric}")
        rank_zero_info(f"together with {start.checkpoint} of outer step {start.outer_step}")
        for said in other_protocol(start.checkpoint, start.content, {**learner.config["model"], **protocol}):
            rank_zero_info(f"unlike its training: {said}")
        members.append(Member(learner.model.eval(), start))
    raise_problems(problems)
    return members


def validate_members(members: Sequence[Member], data: EpisodicDataModule, stage: str) -> None:
    """Try every model on a task, and refuse one that was trained on what it is to be evaluated on.

    Args:
        members: of the ensemble, the configured one first.
        data: set up for the stage.
        stage: what is to come.

    Raises:
        UserError: names the checkpoints that do not serve these tasks.
    """
    problems: list[str] = []
    example = data.example()
    for member in members:
        validate_pictures(member.start, data.contents, stage)
        try:
            if stage == "fit":
                with at_argument("data", {"train_shapes"}):
                    validate_ways(member.model.network, [shape.n_way for shape in data.train_shapes])
            member.model.as_inputs(example)
        except UserError as error:
            problems += (error.after(f"{member.start.checkpoint}: ") if len(members) > 1 else error).problems
    raise_problems(problems)
