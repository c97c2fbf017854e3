"""Environments of Gymnasium as tasks, and tasks as environments of Gymnasium, by the extra ``metasgd[gymnasium]``."""

import threading
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasgd.errors import UserError, first_line, raise_problems, too_small
from metasgd.rl.environment import Environment, State

try:
    import gymnasium
    from gymnasium.spaces import Box, Space
except ImportError as error:
    raise UserError(
        f"this environment needs the package gymnasium, which cannot be imported ({first_line(error)}). Install it with"
        " pip install metasgd[gymnasium]"
    ) from error

SEED_BITS = 2**32
"""Seeds of Gymnasium's environments are below."""


class _Episodes(NamedTuple):
    """Environments, one for each episode, and what each of them last gave."""

    environments: list[Any]
    ended: NDArray[np.bool_]
    observed: NDArray[np.float32]


class GymnasiumTasks(Environment):
    """The tasks of an environment that is registered with Gymnasium.

    Each episode begins with ``reset(seed=…, options={"task": number})``: the environment draws its task from that
    number, the same for all episodes of the task, and all other chance from the seed. One that knows no such option is
    a single task.
    Actions must be numbers within bounds (a ``Box`` with finite limits); observations of any shape are flattened. An
    episode that is terminated or truncated ends; they may be of different lengths.

    Args:
        name: as ``gymnasium.make`` takes it; ``my_module:MyTask-v0`` imports ``my_module`` first.
        horizon: steps of an episode, at most; by default as many as the environment was registered with.
        options: what else ``gymnasium.make`` is given.

    Raises:
        UserError: the environment cannot be made, or its actions or observations are not numbers within bounds.

    References:
        Towers et al. 2024: Gymnasium, https://arxiv.org/abs/2407.17032
    """

    def __init__(self, name: str, horizon: int | None = None, options: dict[str, Any] | None = None) -> None:
        self.name, self.options = name, dict(options or {})
        self._own = threading.local()  # an environment serves one thread at a time
        first = self._made(1)[0]
        spec = first.spec
        found = horizon if horizon is not None or spec is None else spec.max_episode_steps
        if found is None:
            raise UserError(
                f"horizon is null, but {name} was registered without max_episode_steps: give the steps of an episode"
            )
        raise_problems(too_small(("horizon", found, 1)))
        self.horizon = found
        low, high = _bounds(name, first.action_space)
        self.low, self.high = torch.from_numpy(low), torch.from_numpy(high)
        self.actions = len(low)
        self.observations = _size(name, first.observation_space)

    def start(self, task: Tensor, seed: Tensor) -> tuple[State, Tensor]:
        seeds = seed.cpu().reshape(-1).tolist()
        tasks = task.cpu().unsqueeze(-1).expand(seed.shape).reshape(-1).tolist()
        environments = self._made(len(seeds))
        observed = np.stack(
            [
                _flat(environment.reset(seed=number % SEED_BITS, options={"task": of % SEED_BITS})[0])
                for environment, number, of in zip(environments, seeds, tasks, strict=True)
            ]
        )
        state = _Episodes(environments, np.zeros(len(seeds), dtype=bool), observed)
        return state, _as_tensor(observed, seed.shape, seed.device)

    def step(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        lead = action.shape[:-1]
        actions = action.cpu().reshape(-1, self.actions).numpy()
        ended, observed = state.ended.copy(), state.observed.copy()
        rewards = np.zeros(len(ended), dtype=np.float32)
        for i in np.flatnonzero(~state.ended):
            environment = state.environments[i]
            space = environment.action_space
            given = actions[i].astype(space.dtype).reshape(space.shape)
            seen, rewards[i], terminated, truncated, _ = environment.step(given)
            observed[i], ended[i] = _flat(seen), terminated or truncated
        device = action.device
        return (
            _Episodes(state.environments, ended, observed),
            _as_tensor(observed, lead, device),
            _as_tensor(rewards, lead, device),
            _as_tensor(ended, lead, device),
        )

    def _made(self, n: int) -> list[Any]:
        """As many environments, made once for each thread."""
        every = self._own.__dict__.setdefault("environments", [])
        try:
            every += [gymnasium.make(self.name, **self.options) for _ in range(n - len(every))]
        except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
            raise UserError(
                f"name is {self.name}, of which Gymnasium makes no environment ({first_line(error)}). Give the name of"
                " a registered one, as my_module:MyTask-v0, and its own options in options"
            ) from error
        made: list[Any] = every[:n]
        return made


class GymnasiumEnvironment(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One episode at a time of tasks such as ``Navigation``, for programs that know Gymnasium's interface.

    ``reset(options={"task": number})`` chooses the task, which otherwise stays; the first is drawn by the seed.

    Args:
        tasks: an environment of this package.

    Example:
        >>> from metasgd.rl.navigation import Navigation
        >>> environment = GymnasiumEnvironment(Navigation())
        >>> observed, _ = environment.reset(seed=0, options={"task": 3})
        >>> observed, reward, terminated, truncated, _ = environment.step(environment.action_space.sample())
    """

    def __init__(self, tasks: Environment) -> None:
        self.tasks = tasks
        self.action_space = Box(tasks.low.numpy(), tasks.high.numpy(), dtype=np.float32)
        self.observation_space = Box(-np.inf, np.inf, (tasks.observations,), dtype=np.float32)
        self._task: int | None = None
        self._state: State = None
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        chosen = (options or {}).get("task")
        drawn, chance = (int(number) for number in self.np_random.integers(2**62, size=2))
        if chosen is not None or self._task is None or seed is not None:
            self._task = drawn if chosen is None else int(chosen)
        self._state, observed = self.tasks.start(torch.tensor(self._task), torch.tensor([chance]))
        self._steps = 0
        return _flat(observed[0].numpy()), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        cut = np.clip(action, self.tasks.low.numpy(), self.tasks.high.numpy())
        self._state, observed, reward, ended = self.tasks.step(self._state, torch.from_numpy(cut).float()[None])
        self._steps += 1
        return _flat(observed[0].numpy()), float(reward[0]), bool(ended[0]), self._steps >= self.tasks.horizon, {}


def _bounds(name: str, space: Space[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating):
        raise UserError(
            f"name is {name}, whose actions are of the space {space}: a Gaussian policy takes actions of numbers, a"
            " Box. Use another environment, or a wrapper that turns numbers into its actions"
        )
    low, high = _flat(space.low), _flat(space.high)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise UserError(
            f"name is {name}, whose actions have no bounds ({space}): bounds are needed, to which -1 and 1 of the"
            " policy are scaled. Wrap it with gymnasium.wrappers.RescaleAction or ClipAction, with bounds of your own"
        )
    return low, high


def _size(name: str, space: Space[Any]) -> int:
    if not isinstance(space, Box):
        raise UserError(
            f"name is {name}, whose observations are of the space {space}: numbers are needed, a Box. Wrap it with"
            " gymnasium.wrappers.FlattenObservation"
        )
    return int(np.prod(space.shape))


def _flat(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32).reshape(-1)


def _as_tensor(values: NDArray[Any], lead: torch.Size, device: torch.device) -> Tensor:
    return torch.from_numpy(values.reshape(*lead, *values.shape[1:]).copy()).to(device)
