"""The inner steps of some tasks, taken forwards and then yielded backwards, as the reverse pass needs them.

Either every step is saved with its tape; or only a few checkpoints, between which the steps are taken
again, and again: with c of them and no step taken more than r times beforehand, ``(c + r)! / (c! r!)`` steps can be
gone back over (Griewank and Walther 2000, "Algorithm 799: revolve").
"""

from collections.abc import Iterator
from math import comb

import torch
from torch import Tensor

from metasgd.meta.inner_loop import InnerLoop, InnerStep
from metasgd.rules.base import CHOSEN, Params, State

NUM_CHECKPOINTS = 5
"""Where steps are taken again, so many ``θ_s`` are held, however many steps there are: 100 at up to 4 times each."""


class Backwards:
    """Iterates over ``(s, step)`` from the last inner step to the first.

    Attributes:
        final: ``θ_S``, from the first iteration on.
        losses: ``L_s``, likewise.

    Args:
        stack: the tasks.
        inner_steps: S.
        taped: whether the steps come with their tapes.
        again: save a few checkpoints only, and take the steps again.
    """

    final: Params

    def __init__(self, stack: InnerLoop, inner_steps: int, taped: bool, again: bool) -> None:
        self.stack, self.inner_steps, self.taped = stack, inner_steps, taped
        self.saved_at_once = 1 if again else inner_steps
        self.losses: list[Tensor] = []
        self._chosen: list[dict[str, Tensor]] = []

    @property
    def chosen(self) -> dict[str, Tensor]:
        """What the rule chose at each step, if it chooses, ``[*lead, S, …]``."""
        axis = len(self.stack.lead)
        names = self._chosen[0] if self._chosen else ()
        return {c: torch.stack([one[c] for one in self._chosen], dim=axis) for c in names}

    def __iter__(self) -> Iterator[tuple[int, InnerStep]]:
        if not self.inner_steps:
            return iter(())
        return self._between(0, self.inner_steps, self.stack.start, self.stack.first_state(), NUM_CHECKPOINTS)

    def _between(
        self, first: int, last: int, params: Params, state: State, checkpoints: int
    ) -> Iterator[tuple[int, InnerStep]]:
        """The steps ``last-1 … first``, from ``θ_first`` and ``m_first``, which are one of the ``checkpoints``."""
        n = last - first
        if n <= self.saved_at_once:
            steps = []
            for s in range(first, last):
                step = self.stack.step(s, params, state, self.taped)
                steps.append(step)
                if s + 1 < last or last == self.inner_steps:
                    params, state = self._after(s, step)
            if last == self.inner_steps:
                self.final = params
            del params, state, step
            while steps:
                yield first + len(steps) - 1, steps.pop()
            return
        middle = first + _share(n, checkpoints)
        there, state_there = params, state
        for s in range(first, middle):
            there, state_there = self._after(s, self.stack.step(s, there, state_there, False))
        yield from self._between(middle, last, there, state_there, checkpoints - 1)
        del there, state_there
        yield from self._between(first, middle, params, state, checkpoints)

    def _after(self, s: int, step: InnerStep) -> tuple[Params, State]:
        params, state = self.stack.after(s, step)
        if s == len(self.losses):  # for the first time
            self.losses.append(step.loss)
            self._chosen.append({c: state[c] for c in CHOSEN if c in state})
        return params, state


def _share(n: int, checkpoints: int) -> int:
    """Of n steps, how many come before the next checkpoint, so that the fewest are taken again."""
    if checkpoints == 1:
        return n - 1
    times = next(r for r in range(n) if comb(checkpoints + r, r) >= n)
    return max(1, n - comb(checkpoints + times - 1, checkpoints - 1))
