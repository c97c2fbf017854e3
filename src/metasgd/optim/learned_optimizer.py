"""The learned optimizer as a ``torch.optim.Optimizer``: trains any network, in any loop."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT
from upath import UPath

from metasgd.errors import UserError, raise_problems, too_small
from metasgd.learner.load import load
from metasgd.optim.in_place import step_in_place
from metasgd.optim.loss import told
from metasgd.optim.matching import names_of
from metasgd.rules.gradient_descent import CHOSEN, M, Params, State, UpdateRule
from metasgd.rules.optimizer_network import Answers, OptimizerNetwork

Figures = Mapping[str, Tensor] | Mapping[str, float]

BUFFER = "momentum_buffer"
"""The key of a parameter's momentum in ``state``, as ``torch.optim.SGD`` has it."""


class LearnedOptimizer(Optimizer):
    """Steps by a meta-trained update rule: ``m ← μ m + g,  θ ← θ − lr · η m`` with the rule's η and μ.

    A rule that reads the loss is given it: ``step(loss=loss)``, or ``step(closure)``. The optimizer network fits
    any parameters. A rule with rates of its own for every parameter fits those it was learned on: by name where
    ``params`` has names (``network.named_parameters()``), otherwise by position.

    A step takes no more memory than one of SGD with the same momentum, and reads the loss off the device. The
    state dict holds the rule as well, so that a run goes on to the same bits.

    Args:
        params: parameters, named parameters or groups of them, as any torch optimizer takes.
        checkpoint: a checkpoint that ``fit`` wrote, whose update rule to use.
        update_rule: the update rule to use, in place of a checkpoint; it is copied.
        lr: a factor on every rate that the rule answers. 1 is the rule as it was learned, the only knob left;
            this is what a learning-rate scheduler changes.
        total_steps: the steps that the training will take, for a rule that reads how much of it is done.

    Raises:
        UserError: not exactly one of checkpoint and update rule is given, or the rule does not fit the parameters.
    """

    def __init__(
        self,
        params: ParamsT,
        checkpoint: str | Path | UPath | None = None,
        update_rule: UpdateRule | None = None,
        lr: float = 1.0,
        total_steps: int | None = None,
    ) -> None:
        if (checkpoint is None) == (update_rule is None):
            raise UserError("LearnedOptimizer needs a checkpoint or an update_rule, and not both")
        if not lr >= 0:
            raise UserError(f"lr is {lr}: a factor of at least 0 is needed; 1 is the rule as it was learned")
        raise_problems(too_small("", ("total_steps", total_steps, 1)))
        self.rule: UpdateRule = load(checkpoint).module.update_rule if checkpoint else copy.deepcopy(update_rule)  # type: ignore[assignment] # one is given
        self.n_steps = 0
        self.memory: dict[str, Tensor | float | list[float]] = {}
        self._names: list[list[str]] = []
        super().__init__(params, {"lr": lr})
        parameters = [p for group in self.param_groups for p in group["params"]]
        if not self.rule.names:
            self.rule.bind(self._by_given_name(), total_steps or 1)
        if total_steps is not None:
            self.rule.total_steps = total_steps
        elif self.rule.reads_progress:
            raise UserError(
                f"total_steps is not given, but this {type(self.rule).__name__} reads how much of the training is"
                " done: give the number of steps that it will take"
            )
        if any(shape is not None for shape in (self.rule.serves() or {}).values()):
            self.rule.to(parameters[0])  # a rate beside each of its parameters; the rest of a rule is small
        self.rule.requires_grad_(False)
        self._phi = next(self.rule.parameters(), torch.empty(0))
        self.memory = {**self.rule.init_state({})}
        self._take_over()
        self._match()

    def __getstate__(self) -> dict[str, Any]:
        own = ("rule", "n_steps", "memory", "_names", "_phi", "_answers")
        return super().__getstate__() | {name: self.__dict__[name] for name in own}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        if self._names:
            self._match()

    def state_dict(self) -> dict[str, Any]:
        rule = {
            "identity": self.rule.identity(),
            "phi": self.rule.state_dict(),
            "n_steps": self.n_steps,
            "memory": dict(self.memory),
        }
        return super().state_dict() | {"rule": rule}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken, by the rule that it holds.

        Raises:
            UserError: it is not of an optimizer with such a rule.
        """
        saved = state_dict.get("rule")
        if saved is None:
            raise UserError("the state dict is not of a LearnedOptimizer: it holds no update rule")
        own = {n: t.shape for n, t in self.rule.state_dict().items()} | self.rule.identity()
        theirs = {n: t.shape for n, t in saved["phi"].items()} | saved.get("identity", self.rule.identity())
        differing = [n for n in own | theirs if own.get(n) != theirs.get(n)]
        if differing:
            raise UserError(
                f"the state dict is of another update rule than this {type(self.rule).__name__}: its"
                f" {differing[0]} is {theirs.get(differing[0], 'absent')} there and"
                f" {own.get(differing[0], 'absent')} here. Use the checkpoint that it was trained with"
            )
        super().load_state_dict(state_dict)
        self.rule.load_state_dict(saved["phi"])
        self._take_over()
        # each tensor of the memory beside its parameter, or with the rule, wherever it was saved from
        named: Params = {}
        for names, group in zip(self._names, self.param_groups, strict=True):
            named |= zip(names, group["params"], strict=True)
        self.n_steps = saved["n_steps"]
        self.memory = {
            k: v.to(named.get(k.partition(".")[2], self._phi).device) if isinstance(v, Tensor) else v
            for k, v in saved["memory"].items()
        }

    def is_of_rule(self, state_dict: Mapping[str, Any]) -> bool:
        """Whether ``state_dict`` was taken under the very rule that this optimizer has now, φ and all."""
        saved, own = state_dict["rule"], self.rule.state_dict()
        same = saved.get("identity", self.rule.identity()) == self.rule.identity() and saved["phi"].keys() == own.keys()
        return same and all(torch.equal(t, own[n].to(t)) for n, t in saved["phi"].items())

    @property
    def chosen(self) -> dict[str, float | list[float]]:
        """The learning rate (without the factor lr) and momentum of the last step, if the rule chooses them."""
        values = {c: self.memory[c] for c in CHOSEN if c in self.memory}
        return {c: v.tolist() if isinstance(v, Tensor) else v for c, v in values.items()}

    @torch.no_grad()
    def step(  # type: ignore[override] # more than torch's
        self, closure: Callable[[], Any] | None = None, *, loss: Tensor | float | None = None
    ) -> Tensor | float | None:
        """Update all parameters that have a gradient; those without stay as they are. Without any, it is no step.

        Args:
            closure: computes the loss and its gradients again, and returns the loss.
            loss: that the gradients are of; not needed with a closure.

        Returns:
            The loss.

        Raises:
            UserError: the rule reads the loss, and there is none, or it is not finite; or it is not one number.
        """
        if closure is not None:
            with torch.enable_grad():
                returned = closure()
            loss = loss if returned is None else returned
        number = told(self.rule, loss)
        groups: list[tuple[Params, float]] = []
        grads: Params = {}
        for names, group in zip(self._names, self.param_groups, strict=True):
            params = {n: p for n, p in zip(names, group["params"], strict=True) if p.grad is not None}
            grads |= {n: p.grad for n, p in params.items()}
            if params:
                groups.append((params, float(group["lr"])))
        if not groups:
            return loss
        if self._answers is not None:
            answer = self._answers(self.n_steps, grads, number, self.memory)
            self.memory = {**answer.memory}
            for params, lr in groups:
                self._apply(params, grads, answer.rates, answer.momenta, lr)
        elif type(self.rule).forward is UpdateRule.forward:
            coefficients = self.rule.coefficients(self.n_steps, grads, self._beside_rule(number), self._state())
            self.memory = {**coefficients.memory}
            for params, lr in groups:
                self._apply(params, grads, coefficients.rates, coefficients.momenta, lr)
        else:
            self._apply_whole(groups, grads, self._beside_rule(number))
        self.n_steps += 1
        return loss

    def _apply(self, params: Params, grads: Params, rates: Figures, momenta: Figures | None, lr: float) -> None:
        """The rule's step in place, over all the tensors of a group at a time."""
        tensors = list(params.values())
        step_in_place(
            tensors,
            [grads[n] for n in params],
            None if momenta is None else [self._buffer(p) for p in tensors],
            [rates[n] for n in params],
            None if momenta is None else [momenta[n] for n in params],
            lr,
        )

    def _apply_whole(self, groups: list[tuple[Params, float]], grads: Params, loss: Tensor) -> None:
        """The step of a rule with a ``forward`` of its own, which may be anything."""
        params = {n: p for tensors, _ in groups for n, p in tensors.items()}
        state = self.rule.init_state({n: p for n, p in params.items() if BUFFER not in self.state[p]})
        state |= self._state() | {M + n: self.state[p][BUFFER] for n, p in params.items() if BUFFER in self.state[p]}
        moved, state = self.rule(self.n_steps, params, grads, loss, state)
        for tensors, lr in groups:
            for n, p in tensors.items():
                p.lerp_(moved[n], lr) if lr != 1 else p.copy_(moved[n])
                if M + n in state:
                    self.state[p][BUFFER] = state[M + n]
        self.memory = {k: v for k, v in state.items() if not k.startswith(M)}

    def _state(self) -> State:
        """The memory of a rule that answers in tensors."""
        return {k: v for k, v in self.memory.items() if isinstance(v, Tensor)}

    def _take_over(self) -> None:
        """Read the rule's weights once, where its answers need no more than these."""
        self._answers = Answers(self.rule) if type(self.rule) is OptimizerNetwork else None

    def _buffer(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if BUFFER not in state:
            state[BUFFER] = torch.zeros_like(p, memory_format=torch.preserve_format)
        buffer: Tensor = state[BUFFER]
        return buffer

    def _beside_rule(self, loss: float) -> Tensor:
        """The loss, of the rule's type and where the rule is."""
        return self._phi.new_tensor(loss)

    def _by_given_name(self) -> Params:
        """All parameters, under their names if they were given any, otherwise numbered."""
        named: Params = {}
        for group in self.param_groups:
            for i, p in enumerate(group["params"]):
                named[group["param_names"][i] if "param_names" in group else str(len(named))] = p
        return named

    def _match(self) -> None:
        """Find the rule's name of each parameter.

        Raises:
            UserError: it serves other tensors; the first that does not match is named.
        """
        given = list(self._by_given_name().items())
        rest = iter(names_of(self.rule, given, by_position="param_names" not in self.param_groups[0]))
        self._names = [[next(rest) for _ in group["params"]] for group in self.param_groups]
