"""A network in two parts, ``f(x) = g(h(x))``, where nothing that learns has a say in h: found by running it.

h ends with the output of one of the network's modules. Whether it depends on what learns is seen with NaN in place of
all that: h is the same, or it is not. Whether g needs nothing else of what came before is seen with NaN in place of all
of that.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metasgd.errors import first_line
from metasgd.nn.behaviour import alike
from metasgd.nn.calling import call, hooked
from metasgd.nn.suffix import Outputs, Suffix, form_of, set_back

TRIED = 3
"""Examples that a network is run on; at sizes that differ from that of a batch, shapes follow by the first axis."""
ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError, NotImplementedError)
"""What a network may raise that gets NaN, or another batch than before."""


class NoPrefixError(ValueError):
    """There is no such part; says why."""


@dataclass(frozen=True)
class _Call:
    """One call of a module: its name, when it began and ended, and what it gave."""

    name: str
    start: int
    end: int
    output: Outputs


class Prefix:
    """The part h of a network that nothing of ``live`` has a say in, as far as it goes.

    Args:
        network: f, in the mode in which it learns; it stays as it is.
        live: names of the parameters that learn.
        x: some examples as the network takes them, ``[X, …]``, at least 3.

    Attributes:
        name: of the module that h ends with.

    Raises:
        NoPrefixError: there is none whose output depends on each example alone, and is no larger.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
        >>> x = torch.rand(5, 4)
        >>> prefix = Prefix(network, {"2.weight", "2.bias"}, x)
        >>> h = prefix.features(x)
        >>> prefix.name, h.shape
        ('1', torch.Size([5, 3]))
        >>> with prefix.passed_over():
        ...     torch.equal(network(h), network[2](h))
        True
    """

    @torch.no_grad()
    def __init__(self, network: nn.Module, live: Collection[str], x: Tensor) -> None:
        self.network, self.live = network, frozenset(live)
        x = x[:TRIED]
        if len(x) < TRIED:
            raise NoPrefixError(f"a task has fewer than {TRIED} examples")
        expected, calls = _recorded(network, {}, x)
        of_batches = (expected, call(network, {}, x[:-1]))
        unknown = {n: torch.full_like(p, torch.nan) for n, p in network.named_parameters() if n in live}
        try:
            _, seen = _recorded(network, unknown, x)
        except ERRORS as error:
            raise NoPrefixError(f"{type(network).__name__} cannot be run in parts ({first_line(error)})") from error
        if [c.name for c in seen] != [c.name for c in calls]:
            raise NoPrefixError(f"{type(network).__name__} goes another way from batch to batch")
        own = [bool(module._parameters) for module in (network.get_submodule(c.name) for c in calls)]
        self._input = tuple(x.shape[1:]), x.dtype
        for end in sorted(range(len(calls)), key=lambda i: -calls[i].end):
            before = [i for i, c in enumerate(calls) if c.end <= calls[end].end]
            output = calls[end].output
            if not any(own[i] for i in before):
                break  # only to save a copy
            if calls[end].name and _is_features(output, x) and _same(output, seen[end].output):
                self._end_at(calls, end)
                if self._leads_to(of_batches, output) and self._is_of_each(x, output):
                    return
        raise NoPrefixError(
            f"no layer of {type(network).__name__} before all that learns has an output that depends on one example"
            " alone and is no larger than that"
        )

    @torch.no_grad()
    def features(self, x: Tensor, at_once: int = 1) -> Tensor:
        """``h(x)``, ``[X, …]``: by default of each example alone, so that its bits do not depend on the batch."""
        return torch.cat([self._of_batch(some) for some in torch.split(x, at_once)])

    @contextmanager
    def passed_over(self, tried: bool = False) -> Iterator[None]:
        """Within, the network takes h for its input; of a copy of it that is made within, the same holds.

        Args:
            tried: raise where it reads anything else that came before.
        """
        own = vars(self.network).get("forward")
        self.network.forward = Suffix(self.network, self._skipped, self._input, own, tried)
        try:
            yield
        finally:
            set_back(self.network, own)

    def frozen_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """By name, all that h may depend on."""
        yield from ((n, p) for n, p in self.network.named_parameters() if n not in self.live)
        yield from self.network.named_buffers()

    def _end_at(self, calls: list[_Call], end: int) -> None:
        last = calls[end]
        self.name = last.name
        self._number = sum(c.name == last.name for c in calls[:end])
        # calls that ended by then, but for those inside of one that did
        done = [c for c in calls if c.end <= last.end]
        outer = [c for c in done if not any(o.start < c.start and c.end < o.end for o in done)]
        self._skipped = tuple((c.name, form_of(c.output, TRIED)) for c in outer)

    def _of_batch(self, x: Tensor) -> Tensor:
        left = [self._number]

        def stop(module: nn.Module, args: Any, output: Tensor) -> None:  # noqa: ARG001
            if not left[0]:
                raise _FoundError(output)
            left[0] -= 1

        with self.network.get_submodule(self.name).register_forward_hook(stop):
            try:
                call(self.network, {}, x)
            except _FoundError as found:
                return found.output
        raise RuntimeError(f"{type(self.network).__name__} did not come to {self.name}")

    def _leads_to(self, of_batches: Sequence[Tensor], features: Tensor) -> bool:
        try:
            with self.passed_over(tried=True):
                return all(alike(call(self.network, {}, features[: len(y)]), y) for y in of_batches)
        except ERRORS:
            return False

    def _is_of_each(self, x: Tensor, features: Tensor) -> bool:
        """Whether each example's are the same without the others, as not after BatchNorm of the batch."""
        try:
            return alike(self.features(x), features)
        except ERRORS:
            return False


class _FoundError(Exception):
    """Ends a pass with what was looked for."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def _recorded(network: nn.Module, params: dict[str, Tensor], x: Tensor) -> tuple[Tensor, list[_Call]]:
    """The outputs, and the calls of the network's modules in the order in which they began."""
    names = {module: name for name, module in network.named_modules()}
    clock = iter(range(2**62))
    began: list[tuple[str, int]] = []
    found: list[_Call] = []

    def enter(module: nn.Module, args: Any) -> None:  # noqa: ARG001
        began.append((names[module], next(clock)))

    def leave(module: nn.Module, args: Any, output: Outputs) -> None:  # noqa: ARG001
        found.append(_Call(*began.pop(), next(clock), _copied(output)))

    hooks = [module.register_forward_pre_hook(enter, prepend=True) for module in names]
    hooks += [module.register_forward_hook(leave) for module in names]
    with hooked(hooks):
        outputs = call(network, params, x)
    return outputs, sorted(found, key=lambda c: c.start)


def _copied(output: Outputs) -> Outputs:
    """As it is now: the next module may overwrite it."""
    if isinstance(output, tuple | list):
        return [_copied(part) for part in output]
    return output.clone() if isinstance(output, Tensor) else output


def _is_features(output: Outputs, x: Tensor) -> bool:
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim < 2 or len(output) != len(x):
        return False
    return output.numel() <= x.numel()


def _same(output: Tensor, other: Outputs) -> bool:
    return isinstance(other, Tensor) and torch.equal(output, other)
