"""An engine whose work is recorded once as a CUDA graph and then replayed, at the cost of one launch.

A meta-gradient of small tasks is thousands of kernels, each of which takes the host longer to start than the device to
run. A recording starts them all at once, with the same arguments in the same order, and so with the same bits. It
reads the tasks from buffers of its own, which are filled before each replay, and θ, φ and the network's buffers where
they lie; what else it depends on is in its key (``graph_key.py``).
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metasgd.episode import Episode
from metasgd.errors import UserError, first_line
from metasgd.meta.capture import Capture, Recording
from metasgd.meta.engines import Engine, Loop, Merge, Part, Work
from metasgd.meta.graph_key import graph_key, modules_key
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.packing import outline, packed, parts, unpacked

log = logging.getLogger("metasgd")
MOST_HELD = 16
"""Recordings held at a time; the one that was not used for longest makes room."""
MOST_MADE = 64
"""Recordings of an engine in all: where more shapes alternate than can be held, the others run eagerly."""
MOST_UNROLLED = 1024
"""Inner steps of single tasks that a recording may consist of."""
ROUNDING = {torch.float64: 1e-7}
"""By how much of its size a result may differ from the eager one, beside what eager runs differ by."""
ROUNDING_ELSEWHERE = 0.02


@dataclass(frozen=True)
class _Recorded:
    """Work on one key: where its tasks come from, its recording, and how its results are read from the outputs."""

    config: InnerLoopConfig  # so that no other object takes over the id of one in the key
    tasks: Episode
    recording: Recording
    like: Any

    def __call__(self, tasks: Episode) -> Any:
        for own, given in zip(self.tasks[:4], tasks[:4], strict=True):
            own.copy_(given, non_blocking=True)
        self.recording.replay()
        # the next replay writes to the outputs
        return unpacked([flat.clone() for flat in self.recording.outputs], self.like)


class Graph(Engine):
    """What another engine does, recorded at its second time and replayed from then on.

    Args:
        engine: distributes the tasks; one that uses no threads.
        capture: records on the device.
    """

    records = True

    def __init__(self, engine: Engine, capture: Capture) -> None:
        self.engine, self.capture = engine, capture
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._refused: set[Hashable] = set()
        self._reasons: set[str] = set()
        self._unsteady: InnerLoopConfig | None = None
        self.n_made = 0

    def over(self, engine: Engine) -> "Graph":
        """The same, of what another engine does."""
        return Graph(engine, self.capture)

    def run(
        self,
        work: Work[Part],
        merge: Merge[Part],
        config: InnerLoopConfig,
        tasks: Episode,
        inner_steps: int,
        name: Hashable = None,
    ) -> Part:
        """As another engine; ``work`` without a name is not recorded.

        Raises:
            UserError: what was recorded gives another result than the engine itself.
        """

        def eagerly(tasks: Episode) -> Part:
            return self.engine.run(work, merge, config, tasks, inner_steps)

        if name is None or config is self._unsteady:
            return eagerly(tasks)
        key = name, inner_steps, graph_key(config, tasks)
        if key in self._recorded:
            self._recorded.move_to_end(key)
            found: Part = self._recorded[key](tasks)
            return found
        if key in self._refused:
            return eagerly(tasks)
        if key not in self._seen:
            return self._first(key, config, tasks, eagerly)
        return self._record(key, config, tasks, inner_steps, eagerly)

    def _first(
        self, key: Hashable, config: InnerLoopConfig, tasks: Episode, eagerly: Callable[[Episode], Part]
    ) -> Part:
        """Run what may never come again, and look whether it changes what a recording would have for good."""
        before = modules_key(config)
        found = eagerly(tasks)
        if modules_key(config) != before:
            kind = type(config.network).__name__
            self._unsteady = config
            self._say(f"{kind} or {type(config.rule).__name__} changes its own attributes as it runs")
        self._seen[key] = None
        while len(self._seen) > MOST_MADE:
            self._seen.popitem(last=False)
        return found

    def _record(
        self,
        key: Hashable,
        config: InnerLoopConfig,
        tasks: Episode,
        inner_steps: int,
        eagerly: Callable[[Episode], Part],
    ) -> Part:
        """Record, compare the first replay with the eager runs before it, and return its result."""
        if isinstance(self.engine, Loop) and tasks.n_tasks * inner_steps > MOST_UNROLLED:
            return self._refuse(key, f"{tasks.n_tasks} tasks of {inner_steps} inner steps are too many", eagerly, tasks)
        if self.n_made == MOST_MADE:
            self._say(f"{MOST_MADE} shapes and settings were recorded before")
            return eagerly(tasks)
        self.n_made += 1
        own = Episode(*(torch.empty_like(f, memory_format=torch.contiguous_format).copy_(f) for f in tasks))
        results: list[Part] = []

        def once() -> list[Tensor]:
            with _autocast_anew(own.query_x.device.type):
                results[:] = [eagerly(own)]
            return packed(results[0])

        before = _state_of_chance(own.query_x.device)
        try:
            runs = self.capture.warm_up(once)
            if _state_of_chance(own.query_x.device) != before:
                return self._refuse(key, "it draws random numbers", eagerly, tasks)
            once_before, eager = (unpacked(flat, results[0]) for flat in runs[-2:])
            if not all(flat.isfinite().all() for flat in runs[-1] if flat.is_floating_point()):
                found: Part = eager
                return found  # to which nothing can be compared: the next time, then
            recording = self.capture.record(once)
        except (RuntimeError, NotImplementedError) as error:
            return self._refuse(key, first_line(error), eagerly, tasks)
        made = _Recorded(config, own, recording, outline(results.pop()))
        found = made(tasks)
        _validate(found, eager, once_before, config)
        self._recorded[key] = made
        if len(self._recorded) > MOST_HELD:
            gone, _ = self._recorded.popitem(last=False)
            self._seen.pop(gone, None)
        return found

    def _refuse(self, key: Hashable, why: str, eagerly: Callable[[Episode], Part], tasks: Episode) -> Part:
        self._refused.add(key)
        self._say(why)
        return eagerly(tasks)

    def _say(self, why: str) -> None:
        if why not in self._reasons:
            self._reasons.add(why)
            log.warning("engine: graph runs this step eagerly, which cannot be recorded: %s", why)


def _autocast_anew(device_type: str) -> torch.autocast:
    """Autocast as it is, but without the weights that it has cast before, which are of other values the next time."""
    enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    return torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=False)


def _state_of_chance(device: torch.device) -> tuple[bytes, ...]:
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    return tuple(state.numpy().tobytes() for state in states)


def _validate(found: Any, eager: Any, again: Any, config: InnerLoopConfig) -> None:
    """Raise a ``UserError`` where a replay differs from an eager run by more than rounding, and than eager runs do."""
    for name, part in parts(found).items():
        ours, expected, other = (_flat(p) for p in (part, parts(eager)[name], parts(again)[name]))
        allowed = ROUNDING.get(part[0].dtype, ROUNDING_ELSEWHERE) if part else 0
        off, noise, size = (float(t.norm()) for t in (ours - expected, other - expected, expected))
        if not off <= allowed * size + 4 * noise:
            raise UserError(
                f"engine is graph, but what was recorded gives another {name} for {type(config.network).__name__} than"
                f" running it: the difference is {off:.2g} of {size:.2g}, where {allowed * size + 4 * noise:.2g} is"
                " rounding. Its forward does something that is not on the device, or not by torch: set engine to vmap"
            )


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.double().flatten() for t in tensors]) if tensors else torch.zeros(0)
