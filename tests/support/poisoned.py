"""Tasks that no learner survives, to see what becomes of those who meet them."""

from metasgd.data.sinusoid import Sinusoid


class Poisoned(Sinusoid):
    """Curves; those of some training tasks have values that are not finite, or too large to be squared.

    Args:
        tasks: their numbers.
        where: the field of the episode with the bad values.
        value: the bad value.
    """

    def __init__(self, tasks: list[int], where: str = "query_y", value: float = float("nan")):
        self.tasks, self.where, self.value = tasks, where, value

    def sampler(self, split, root, cache_dir, seed, shape):
        whole = super().sampler(split, root, cache_dir, seed, shape)
        return _PoisonedSampler(whole, self) if split == "train" else whole


class _PoisonedSampler:
    def __init__(self, whole, source):
        self.whole, self.source = whole, source

    def draw(self, indices):
        episode = self.whole.draw(indices)
        for i, index in enumerate(indices):
            if index in self.source.tasks:
                getattr(episode, self.source.where)[i] = self.source.value
        return episode
