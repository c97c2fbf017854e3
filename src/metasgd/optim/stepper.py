"""How a rule's answer is asked for, and which step is made of it."""

from typing import Any

import torch
from torch import Tensor

from metasgd.optim.gradients import Entry, size_of
from metasgd.optim.scheduled_steps import step_scheduled
from metasgd.optim.steps import step_by_figures, step_scale_free, step_whole
from metasgd.optim.tensor_list import RowsOfTensors, TensorList, tensor_lists
from metasgd.rules.answers import Answers
from metasgd.rules.base import State, UpdateRule
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.rules.scaled_network import GRADIENT_SQUARE, ScaledOptimizerNetwork, scale_of
from metasgd.rules.scheduled_adam import ScheduledAdam
from metasgd.rules.scheduled_answers import Memory, ScheduledAnswers
from metasgd.rules.scheduled_muon import ScheduledMuon


class Stepper:
    """Steps by a rule.

    Attributes:
        beside: a tensor of the rule's type, where the rule is.
        lists: what the tensors that step together have in common, from step to step.

    Args:
        rule: with the weights and settings that it steps by; made anew when they change.
    """

    def __init__(self, rule: UpdateRule) -> None:
        self.rule = rule
        self.beside: Tensor = next(rule.parameters(), torch.empty(0))
        self.answers: Answers | None = None
        self.scheduled = None
        if isinstance(rule, ScheduledAdam) and type(rule) in (ScheduledAdam, ScheduledMuon):
            self.scheduled = ScheduledAnswers(rule)
        self.lists: dict[Any, TensorList] = {}
        if isinstance(rule, OptimizerNetwork):
            exact = type(rule)  # a subclass may answer in another way
            scale_free = isinstance(rule, ScaledOptimizerNetwork) and bool(rule.scale_free)
            if exact is OptimizerNetwork or (exact is ScaledOptimizerNetwork and scale_free):
                self.answers = Answers(rule)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"lists": {}}  # a copy's states hold tensors of their own

    def step(
        self, step: int, groups: list[list[Entry]], norms: list[list[float]], loss: float, memory: Memory
    ) -> Memory:
        """Make step s; the rule's memory afterwards.

        Args:
            step: s.
            groups: the parameters that have a gradient, group by group.
            norms: of these gradients.
            loss: L_s, or NaN for a rule that reads none.
            memory: that the step before left.
        """
        every = [e for entries in groups for e in entries]
        if self.answers is not None:
            size = size_of(every, [norm for of_group in norms for norm in of_group])
            answer = self.answers(step, [e.name for e in every], loss, size, memory)
            for i, (entries, of_group) in enumerate(zip(groups, norms, strict=True)):
                if self.answers.scale_free:
                    square: Any = answer.memory[GRADIENT_SQUARE]
                    for part, tensors in tensor_lists(entries, self.lists, i, RowsOfTensors):
                        step_scale_free(part, tensors, float(square), answer.rates, answer.momenta)
                else:
                    step_by_figures(entries, of_group, answer.rates, answer.momenta)
            return {**answer.memory}
        if self.scheduled is not None:
            return step_scheduled(self.scheduled, step, groups, norms, loss, memory, self.lists)
        number = self.beside.real.new_tensor(loss)
        state: State = {k: v for k, v in memory.items() if isinstance(v, Tensor)}
        if type(self.rule).forward is not UpdateRule.forward:
            return {**step_whole(self.rule, step, every, number, state)}
        found = self.rule.coefficients(step, {e.name: e.grad for e in every}, number, state)
        for entries, of_group in zip(groups, norms, strict=True):
            step_by_figures(entries, of_group, found.rates, found.momenta, self._decay_rates(entries, found.memory))
        return {**found.memory}

    def _decay_rates(self, entries: list[Entry], memory: State) -> dict[str, float] | None:
        """η c of each tensor, where the rule's rates are divided by the size of the gradients; otherwise None."""
        if not isinstance(self.rule, ScaledOptimizerNetwork):
            return None
        etas = memory["learning_rate"].tolist()
        own = dict(zip(self.rule.names, etas, strict=True)) if self.rule.per_layer else {}
        return {e.name: scale_of(e.shape) * own.get(e.name, etas[0]) for e in entries}
