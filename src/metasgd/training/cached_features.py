"""What the frozen layers below all that learns make of each example: computed once, and cached on disk."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from metasgd.data.class_sampler import ClassSampler
from metasgd.data.feature_store import FeatureStore
from metasgd.data.source import Sampler
from metasgd.data.transforms.rotation import Rotated
from metasgd.episode import Episode, as_given, from_pixels
from metasgd.meta.frozen_layers import frozen_layers
from metasgd.meta.full_unroll import FullUnroll
from metasgd.meta.model import MetaModel
from metasgd.nn.chance import without_chance
from metasgd.nn.prefix import NoPrefixError, Prefix

FORMAT = 1
AT_ONCE = 64
"""Examples whose features are written together, so that a kill loses few of them."""
Ready = Callable[[Episode], AbstractContextManager[Episode]]


class CachedFeatures:
    """A model's tasks with features in place of their examples, where these are the same as without a cache.

    Args:
        model: whose network is run on features.
        samplers: of all tasks to come.
        cache_dir: the folder of the files.
    """

    def __init__(self, model: MetaModel, samplers: Iterable[Sampler], cache_dir: Path) -> None:
        self._model, self._cache_dir = model, cache_dir
        self._samplers = tuple(samplers)
        self._features: Features | None = None
        self._is_decided = False

    @contextmanager
    def ready(self, tasks: Episode, without: Ready) -> Iterator[Episode]:
        """The tasks as the model's network takes them within: features, or by ``without``."""
        if not self._is_decided:
            self._decide(tasks.tasks(0, 1))
        if self._features is None:
            with without(tasks) as inputs:
                yield inputs
            return
        with without_chance(self._model.network, self._model.held.names):
            inputs = self._features.of(tasks)
            with self._features.prefix.passed_over():
                yield inputs

    def _decide(self, task: Episode) -> None:
        inputs = self._model.as_inputs(task)
        try:
            if changing := [type(sampler).__name__ for sampler in self._samplers if not draws_stored_examples(sampler)]:
                raise NoPrefixError(
                    f"tasks are drawn by {changing[0]}, whose examples are others each time. Leave out what changes"
                    " them at random"
                )
            if not isinstance(self._model.unroll, FullUnroll) or self._model.config.experience is not as_given:
                raise NoPrefixError("runs start from other weights each time, or make their own examples")
            with without_chance(self._model.network, self._model.held.names):
                prefix = self._model.prefix or frozen_layers(self._model.config, inputs)
                self._features = Features(prefix, self._cache_dir, inputs.support_x[0, :1])
        except NoPrefixError as reason:
            rank_zero_info(f"cache_features is true, but nothing can be cached: {reason}")
        self._is_decided = True


class Features:
    """What frozen layers make of examples, out of a file or put into it.

    There is a file for each state of the layers: for the SHA-256 of their weights, and of what they make of fixed
    numbers here and now, so that another version of a library or number of threads, where it shows, has another file.
    In it an example is known by its own bytes.

    Args:
        prefix: the layers.
        cache_dir: the folder of the files.
        example: one as the network takes it, ``[1, …]``.
    """

    def __init__(self, prefix: Prefix, cache_dir: Path, example: Tensor) -> None:
        self.prefix, self._cache_dir = prefix, cache_dir
        self._probe = torch.rand(example.shape, generator=torch.Generator().manual_seed(FORMAT)).to(example)
        self._form = prefix.features(self._probe)[0]
        self._seen: tuple[tuple[int, int], ...] = ()
        self._store: FeatureStore | None = None

    def of(self, tasks: Episode) -> Episode:
        """The tasks with features ``[B, X, …]`` for their examples.

        Raises:
            UserError: the cache cannot be used.
        """
        x = torch.cat([tasks.support_x, tasks.query_x], dim=1)
        each = x.flatten(0, 1)
        keys = [key_of(one) for one in each]
        examples = dict(zip(keys, each, strict=True))
        store = self._store_of_weights()
        found = store.find(list(examples))
        missing = [key for key in examples if key not in found]
        for start in range(0, len(missing), AT_ONCE):
            some = missing[start : start + AT_ONCE]
            inputs = {key: from_pixels(examples[key][None], self._probe.dtype) for key in some}
            store.add({key: bytes_of(self.prefix.features(one)) for key, one in inputs.items()})
            found.update(store.find(some))  # which another process may have written meanwhile
        features = torch.stack([self._read(found[key]) for key in keys]).to(x.device)
        features = features.reshape(*x.shape[:2], *features.shape[1:])
        n_support = tasks.support_x.shape[1]
        return tasks._replace(support_x=features[:, :n_support], query_x=features[:, n_support:])

    def _read(self, value: bytes) -> Tensor:
        return torch.frombuffer(bytearray(value), dtype=self._form.dtype).reshape(self._form.shape)

    def _store_of_weights(self) -> FeatureStore:
        """That of the weights as they are now, which a checkpoint may have replaced."""
        tensors = dict(self.prefix.frozen_tensors())
        seen = tuple((t.data_ptr(), t._version) for t in tensors.values())
        if self._store is None or seen != self._seen:
            store = FeatureStore(self._cache_dir / f"features-{self._digest(tensors.items())[:32]}.sqlite")
            size = self._form.numel() * self._form.element_size()
            rank_zero_info(
                f"cached: what the network makes of each example as far as {self.prefix.name}, {size / 1000:,.1f} kB,"
                f" in {store.path}"
            )
            self._store, self._seen = store, seen
        return self._store

    def _digest(self, tensors: Iterable[tuple[str, Tensor]]) -> str:
        digest = hashlib.sha256(repr((FORMAT, torch.__version__, self.prefix.name)).encode())
        for name, t in [*tensors, ("", self.prefix.features(self._probe))]:
            digest.update(repr((name, t.dtype, tuple(t.shape))).encode())
            digest.update(bytes_of(t))
        return digest.hexdigest()


def draws_stored_examples(sampler: Sampler) -> bool:
    """Whether tasks are made of the same examples again and again, as they are stored or rotated by 90°."""
    if isinstance(sampler, Rotated):
        return draws_stored_examples(sampler.sampler)
    return isinstance(sampler, ClassSampler)


def key_of(x: Tensor) -> bytes:
    """By which an example is known."""
    return hashlib.blake2b(bytes_of(x), digest_size=16, person=str(x.dtype).encode()).digest()


def bytes_of(x: Tensor) -> bytes:
    """What a tensor has in memory."""
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
