"""The outer problem: what learns at an outer step, from which loss, and by which optimizer."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from inspect import signature
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from metasgd.errors import UserError, raise_problems, too_small


@dataclass(frozen=True)
class OuterProblem:
    """Minimise the mean query loss of the adapted networks over (θ, φ).

    Args:
        optimizer: of the outer step.
        rule_settings: settings of that optimizer for φ where they differ from those for θ, as ``{lr: 1e-4}``.
        scheduler: of the outer learning rate, stepped once per outer step; ``cosine`` falls to zero over
            ``trainer.max_steps``.
        gradient_clip_norm: the outer gradient's norm is cut to this; no cut by default.
        alternate: learn θ for so many outer steps with φ frozen, then φ for as many with θ frozen, and so
            on; 0 learns both at every step.
        freeze_network: leave θ as it is and learn φ alone; or patterns of the parameters of the network that stay as
            they are in outer steps, such as ``[body.*]``. Inner steps adapt them all the same.
        zero_steps_until: before this outer step, make no inner step, which a prototype head allows: the network is
            trained as a prototypical network, in half the time; the rule and the head's scale wait.
        first_order_until: leave the Hessian term out before this outer step (derivative-order annealing,
            MAML++).
        multi_step_until: before this outer step, let the query loss after every inner step count: all the
            same at first, then ever more the last alone (multi-step loss, MAML++).
        max_skipped_steps: a step whose loss or gradient is not finite is skipped; stop at so many in a row.
    """

    optimizer: OptimizerCallable = torch.optim.Adam
    rule_settings: dict[str, Any] = field(default_factory=dict)
    scheduler: Literal["cosine"] | LRSchedulerCallable | None = None
    gradient_clip_norm: float | None = None
    alternate: int = 0
    freeze_network: bool | list[str] = False
    zero_steps_until: int = 0
    first_order_until: int = 0
    multi_step_until: int = 0
    max_skipped_steps: int = 10

    def __post_init__(self) -> None:
        problems = too_small(
            ("alternate", self.alternate, 0),
            ("zero_steps_until", self.zero_steps_until, 0),
            ("first_order_until", self.first_order_until, 0),
            ("multi_step_until", self.multi_step_until, 0),
            ("max_skipped_steps", self.max_skipped_steps, 1),
        )
        if self.gradient_clip_norm is not None and not self.gradient_clip_norm > 0:
            problems.append(f"gradient_clip_norm is {self.gradient_clip_norm}: a number above 0 is needed")
        if self.freeze_network and self.alternate:
            problems.append("freeze_network and alternate exclude each other: use one")
        raise_problems(problems)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OuterProblem":
        """Itself, being frozen: the command line's optimizer classes hold its parser, which cannot be copied."""
        return self

    def learned(self, network: nn.Module) -> frozenset[str]:
        """Names of the parameters that an outer step moves: none if θ stays, and never those that are frozen.

        Raises:
            UserError: a pattern of ``freeze_network`` fits none of them.
        """
        if self.freeze_network is True:
            return frozenset()
        patterns = self.freeze_network or []
        names = [n for n, p in network.named_parameters() if p.requires_grad]
        for pattern in patterns:
            if not any(fnmatchcase(n, pattern) for n in names):
                raise UserError(
                    f"model.outer.freeze_network has {pattern!r}, which fits no parameter of {type(network).__name__}:"
                    f" use true, false, or patterns of {', '.join(names)}"
                )
        return frozenset(n for n in names if not any(fnmatchcase(n, pattern) for pattern in patterns))

    def make_optimizer(self, network: nn.Module, rule: nn.Module, learned: Collection[str] | None = None) -> Optimizer:
        """One optimizer with a group of parameters for θ and one for φ.

        Args:
            network: θ.
            rule: φ.
            learned: names of the parameters among θ that learn; by default ``learned(network)``.

        Raises:
            UserError: the optimizer refuses its settings, ``rule_settings`` names what it does not have, or nothing is
                left to learn.
        """
        names = self.learned(network) if learned is None else learned
        theta = [p for n, p in network.named_parameters() if n in names]
        phi = [p for p in rule.parameters() if p.requires_grad]
        if self.alternate and not phi:
            raise UserError(
                f"model.outer.alternate is {self.alternate}, but {type(rule).__name__} has nothing to learn: use 0"
            )
        if not theta and not phi:
            raise UserError(
                f"model.outer.freeze_network is true, or all of the network is frozen (requires_grad False), and"
                f" {type(rule).__name__} has nothing to learn either: let one of them learn"
            )
        groups = [{"params": theta}, {"params": phi, **self.rule_settings}]
        try:
            optimizer = self.optimizer([group for group in groups if group["params"]])
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(
                f"model.outer.optimizer cannot be made: {error}. Change model.outer.optimizer.init_args, or use"
                " another, such as torch.optim.Adam"
            ) from error
        unknown = sorted(set(self.rule_settings) - set(optimizer.defaults))
        if unknown:
            raise UserError(
                f"model.outer.rule_settings has {', '.join(unknown)}, which {type(optimizer).__name__} does not know:"
                f" use {', '.join(optimizer.defaults)}"
            )
        self._validate_rule_settings(optimizer)
        return optimizer

    def _validate_rule_settings(self, optimizer: Optimizer) -> None:
        """Refuse settings for φ that the optimizer would refuse for all; of a group's own it looks at none.

        Raises:
            UserError: names them, with the optimizer's reason.
        """
        own = self.rule_settings
        if not own:
            return
        kind: Any = type(optimizer)
        taken = signature(kind).parameters
        settings = {name: value for name, value in {**optimizer.defaults, **own}.items() if name in taken}
        odd = [name for name, value in own.items() if isinstance(value, float) and not math.isfinite(value)]
        reason = f"{odd[0]} is not finite" if odd else ""
        try:
            kind([nn.Parameter(torch.zeros(1))], **settings)
        except (ValueError, TypeError, RuntimeError) as error:
            reason = str(error)
        if reason:
            raise UserError(
                f"model.outer.rule_settings is {own}, which {kind.__name__} does not take ({reason}): use values that"
                " model.outer.optimizer.init_args takes as well"
            )

    def make_scheduler(self, optimizer: Optimizer, max_steps: int) -> LRScheduler | None:
        """The schedule of the optimizer's settings.

        Raises:
            UserError: the schedule refuses the optimizer or its own settings.
        """
        if self.scheduler is None:
            return None
        if self.scheduler != "cosine":
            try:
                return self.scheduler(optimizer)
            except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
                raise UserError(
                    f"model.outer.scheduler cannot be made for {type(optimizer).__name__}: {error}. Change"
                    " model.outer.scheduler.init_args, or use another, such as cosine"
                ) from error
        # not CosineAnnealingLR: its state would carry a run's length into the same run made longer
        return LambdaLR(optimizer, lambda t: 0.5 + 0.5 * math.cos(math.pi * min(t, max_steps) / max_steps))

    def clip(self, parameters: Iterable[Tensor]) -> Tensor:
        """Cut the gradient if it is to be cut; return the norm that it had."""
        learned = [p for p in parameters if p.grad is not None]
        norm = get_total_norm([p.grad for p in learned if p.grad is not None])
        if self.gradient_clip_norm is not None:
            clip_grads_with_norm_(learned, self.gradient_clip_norm, norm)
        return norm

    def learns(self, step: int) -> tuple[bool, bool]:
        """Whether θ and whether φ learn at this outer step."""
        if step < self.zero_steps_until:
            return True, False
        if not self.alternate:
            return True, True
        turn = step // self.alternate % 2
        return turn == 0, turn == 1

    def query_weights(self, step: int, inner_steps: int) -> list[float]:
        """``w_1 … w_S``, which sum to 1: what the query loss after each inner step counts for."""
        early = max(0.0, 1 - step / self.multi_step_until) / inner_steps if self.multi_step_until else 0.0
        return [early] * (inner_steps - 1) + [1 - early * (inner_steps - 1)]
