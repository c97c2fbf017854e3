"""The learned optimizer as a ``torch.optim.Optimizer``: trains any network, in any loop."""

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from metasgd.errors import UserError
from metasgd.optim import saved_state as saving
from metasgd.optim.gradients import HALF, Entry, entries_of, norms_of, stand_ins
from metasgd.optim.group_options import DEFAULTS, validate_group
from metasgd.optim.lightning import TrainerLosses
from metasgd.optim.loss import told
from metasgd.optim.matching import given_names, names_by_group
from metasgd.optim.processes import agree
from metasgd.optim.settings import SKIPPED, adopt_settings, default_max_update, ended, rule_of
from metasgd.optim.stepper import Stepper
from metasgd.rules.base import CHOSEN, UpdateRule
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.rules.schedule import Schedule
from metasgd.rules.scheduled_adam import ScheduledAdam

log = logging.getLogger("metasgd")


class LearnedOptimizer(Optimizer):
    """Steps by a meta-trained update rule: ``m ← μ m + g,  θ ← θ − lr · η (m + λ θ)`` with the rule's η and μ.

    A rule that reads the loss is given it: ``step(loss=loss)``, ``step(loss)`` or ``step(closure)``. Where processes
    train the same weights, it reads the mean of their losses; in Lightning that of all accumulated batches.
    The optimizer network fits any parameters. A rule with rates of its own for every parameter fits those it was
    learned on: by name where ``params`` has names (``network.named_parameters()``), otherwise by position.

    A gradient that is not finite leaves the whole step out, which ``skipped_steps`` counts. The state dict holds the
    rule as well, so that a run resumes to the same bits.

    Args:
        params: parameters, named parameters or groups of them, as any torch optimizer takes. A group may have an lr,
            weight_decay, momentum and max_update of its own.
        checkpoint: a checkpoint that ``fit`` wrote, or the name of one that comes with metasgd, as
            ``"optimizer_network_long"``, whose update rule to use.
        update_rule: the update rule to use, in place of a checkpoint; it is copied.
        lr: a factor on every rate that the rule answers. 1 is the rule as it was learned; this is what a
            learning-rate scheduler changes.
        total_steps: the steps that the training will take, for a schedule and a rule that reads how much is done.
        weight_decay: λ, decoupled, as AdamW has it, with the rate η of each tensor.
        momentum: μ in place of the rule's own, from 0 to below 1, as OneCycleLR and CyclicLR set it; None for its own.
        max_update: the largest norm of a tensor's update relative to its weights', which count as at least as large as
            a layer's initial ones; infinity for no limit. None: 0.1 for an optimizer network, 0.25 for a scaled one
            and for ``ScheduledAdam``, otherwise no limit.
        schedule: ``trapezoid`` (the rates rise over the first 5 % of total_steps and fall to zero over the last 30 %)
            or ``none``. None: as the rule says, otherwise ``trapezoid`` for a ``ScaledOptimizerNetwork``.
        scale_free: whether a ``ScaledOptimizerNetwork`` steps the same whatever the loss's unit and zero. None: as the
            rule says, otherwise True.
        process_group: the processes that train the same weights together; None for all there are.
        trust: import any class that the checkpoint names; see ``metasgd.load``.

    Raises:
        UserError: not exactly one of checkpoint and update rule is given, a setting is out of its range, or the rule
            does not fit the parameters.

    Example:
        >>> from metasgd.rules import ScaledOptimizerNetwork
        >>> network = torch.nn.Linear(3, 1)
        >>> optimizer = LearnedOptimizer(network.parameters(), update_rule=ScaledOptimizerNetwork(), total_steps=100)
        >>> loss = network(torch.ones(2, 3)).square().mean()
        >>> loss.backward()
        >>> _ = optimizer.step(loss)
        >>> optimizer.n_steps
        1
    """

    def __init__(
        self,
        params: ParamsT,
        checkpoint: str | Path | None = None,
        update_rule: UpdateRule | None = None,
        lr: float = 1.0,
        total_steps: int | None = None,
        weight_decay: float = 0.0,
        momentum: float | None = None,
        max_update: float | None = None,
        schedule: Schedule | None = None,
        scale_free: bool | None = None,
        process_group: ProcessGroup | None = None,
        trust: bool = False,
    ) -> None:
        if total_steps is not None and total_steps < 1:
            raise UserError(f"total_steps is {total_steps}: at least 1 is needed")
        self.rule = rule_of(checkpoint, update_rule, trust)
        settings = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        settings["max_update"] = default_max_update(self.rule) if max_update is None else max_update
        validate_group(settings)
        self.n_steps, self.skipped_steps, self.process_group = 0, 0, process_group
        self.memory: dict[str, Tensor | float | list[float]] = {}
        self._names: list[list[str]] = []
        self._trainer_losses = TrainerLosses()
        self._said: set[str] = set()
        super().__init__(params, settings)
        adopt_settings(self.rule, schedule, scale_free, total_steps)
        parameters = [p for group in self.param_groups for p in group["params"]]
        if not self.rule.names:
            self.rule.bind(stand_ins(given_names(self.param_groups)), total_steps or 1)
        if total_steps is not None:
            self.rule.total_steps = total_steps
        if any(shape is not None for shape in (self.rule.serves() or {}).values()):
            first = parameters[0]  # a rate beside each of its parameters; the rest of a rule is small
            plain = first.dtype not in HALF and not any(p.is_complex() for p in parameters)
            self.rule.to(first.device, first.dtype if plain else None)
        self.rule.requires_grad_(False)
        self._stepper = Stepper(self.rule)
        self.memory = {**self.rule.init_state({})}
        self._name()

    def __getstate__(self) -> dict[str, Any]:
        own = ("rule", "n_steps", "skipped_steps", "memory", "_names", "_stepper", "_trainer_losses", "_said")
        return super().__getstate__() | {name: self.__dict__[name] for name in own} | {"process_group": None}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        validate_group(param_group)
        super().add_param_group(param_group)
        if self._names:
            try:
                self._name()
            except UserError:
                self.param_groups.pop()
                raise

    def _name(self) -> None:
        self._names = names_by_group(self.rule, self.param_groups)
        if self.rule.reads_names:
            self.rule.look_at({name: p.shape for name, p in self._named().items() if not is_lazy(p)})

    def _named(self) -> dict[str, Tensor]:
        """All parameters, by the rule's names."""
        groups = zip(self._names, self.param_groups, strict=True)
        return {name: p for names, group in groups for name, p in zip(names, group["params"], strict=True)}

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._trainer_losses.clear()
        super().zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        own = {"n_steps": self.n_steps, "skipped_steps": self.skipped_steps, "memory": dict(self.memory)}
        return super().state_dict() | {"rule": saving.part_of(self.rule) | own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume where ``state_dict`` was taken, by the rule that it holds and with its settings.

        Raises:
            UserError: it is not of an optimizer with such a rule.
        """
        saved = saving.validate_rule(state_dict.get("rule"), self.rule)
        named, states = self._named(), dict[Tensor, dict[str, Any]]()
        # the last of the hooks sees what those before it have made of it
        take = lambda _, given: states.update(saving.state_of_parameters(given, named.values()))  # noqa: E731
        hook = self.register_load_state_dict_pre_hook(take)
        try:
            super().load_state_dict(saving.in_order_of(self, state_dict))
        finally:
            hook.remove()
        for group in self.param_groups:
            group |= DEFAULTS | group  # of an earlier version, without the option
        self.state.update(states)
        self.rule.load_state_dict(saved["phi"])
        saving.restore_settings(saved, self.rule)
        self._stepper = Stepper(self.rule)
        self.n_steps, self.skipped_steps = saved["n_steps"], saved.get("skipped_steps", 0)
        self.memory = saving.memory_beside(saved["memory"], named, self._stepper.beside)

    def is_of_rule(self, state_dict: Mapping[str, Any]) -> bool:
        """Whether ``state_dict`` was taken under the very rule that this optimizer has now, φ and all."""
        return saving.is_of_rule(state_dict["rule"], self.rule)

    @property
    def chosen(self) -> dict[str, float | list[float]]:
        """The learning rate (without the factor lr) and momentum of the last step, if the rule chooses them."""
        values = {c: self.memory[c] for c in CHOSEN if c in self.memory}
        return {c: v.tolist() if isinstance(v, Tensor) else v for c, v in values.items()}

    @torch.no_grad()
    def step(  # type: ignore[override] # more than torch's
        self, closure: Callable[[], Any] | Tensor | float | None = None, *, loss: Tensor | float | None = None
    ) -> Tensor | float | None:
        """Update all parameters that have a gradient; those without stay as they are. Without any, it is no step.

        Args:
            closure: computes the loss and its gradients again, and returns the loss; or the loss itself.
            loss: that the gradients are of; not needed with a closure. Of gradients that were accumulated over several
                batches: the mean of their losses.

        Returns:
            The loss.

        Raises:
            UserError: the rule reads the loss, and there is none, or it is not finite; or it is not one number.
        """
        if callable(closure):
            with torch.enable_grad():
                returned = closure()
            loss = loss if returned is None else returned
        elif closure is not None:
            loss = closure
        if (of_trainer := self._trainer_losses.mean()) is not None and (loss is None or callable(closure)):
            loss = of_trainer
        groups = [entries for entries in self._entries() if entries]
        norms = [norms_of([e.grad for e in entries]) for entries in groups]
        finite = all(math.isfinite(norm) for of_group in norms for norm in of_group)
        read = loss
        if self.rule.reads_loss and not (isinstance(loss, Tensor) and loss.numel() != 1):
            device = self.param_groups[0]["params"][0].device
            read, finite = agree(loss, finite, self.process_group, device)
        number = math.nan if not groups and read is None else told(self.rule, read)
        if not groups:
            return loss
        if not finite:
            self.skipped_steps += 1
            self._trainer_losses.forget()
            self._say_once("skipped", SKIPPED)
            return loss
        if self.rule.reads_progress and self.n_steps == self.rule.total_steps:
            self._say_once("total_steps", ended(self.rule))
        self.memory = self._stepper.step(self.n_steps, groups, norms, number, self.memory)
        for e in (e for entries in groups for e in entries):
            e.write_back()
            e.state["step"] = e.state.get("step", 0) + 1
        self._trainer_losses.forget()  # those of this step
        self.n_steps += 1
        return loss

    def _entries(self) -> list[list[Entry]]:
        """Those of each group that have a gradient."""
        real = isinstance(self.rule, OptimizerNetwork | ScheduledAdam)
        groups = zip(self._names, self.param_groups, strict=True)
        return [entries_of(names, group, self.state, real) for names, group in groups]

    def _say_once(self, key: str, said: str) -> None:
        if key not in self._said:
            self._said.add(key)
            log.warning("LearnedOptimizer: %s", said)
