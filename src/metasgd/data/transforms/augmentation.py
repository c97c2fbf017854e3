"""Pictures changed at random, the same way for a task every time it is drawn."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metasgd.data.rng import Split, task_stream
from metasgd.data.source import Sampler
from metasgd.episode import Episode
from metasgd.errors import UserError


class Augmented:
    """Draws a sampler's tasks and applies transforms to each of their pictures.

    Args:
        sampler: draws the tasks.
        transforms: of torchvision.transforms.v2, applied one after the other to a picture uint8
            ``[channels, height, width]``, each picture with draws of its own.
        split: enters the random numbers.
        seed: with the split and a task's number, determines them.
    """

    def __init__(self, sampler: Sampler, transforms: Sequence[nn.Module], split: Split, seed: int) -> None:
        self.sampler, self.split, self.seed = sampler, split, seed
        self.transform = nn.Sequential(*transforms)

    def draw(self, indices: NDArray[np.int64]) -> Episode:
        """The tasks with these numbers.

        Raises:
            UserError: the transforms make pictures of another shape or type.
        """
        tasks = self.sampler.draw(indices)
        support, query = [], []
        with torch.random.fork_rng(devices=[]):  # the transforms draw from torch's global generator
            for b, index in enumerate(indices):
                stream = task_stream(self.seed, self.split, int(index), use="augmentation")
                torch.manual_seed(int(stream.integers(2**63)))
                support.append(self._augmented(tasks.support_x[b]))
                query.append(self._augmented(tasks.query_x[b]))
        return tasks._replace(support_x=torch.stack(support), query_x=torch.stack(query))

    def _augmented(self, pictures: Tensor) -> Tensor:
        """``[X, channels, height, width]``, of the same shape."""
        augmented = [self.transform(picture) for picture in pictures]
        for picture in augmented:
            if picture.dtype != pictures.dtype or picture.shape != pictures.shape[1:]:
                raise UserError(
                    f"augmentation has transforms that make {picture.dtype} {tuple(picture.shape)} of a picture"
                    f" {pictures.dtype} {tuple(pictures.shape[1:])}: use transforms that change neither, such as"
                    " RandomHorizontalFlip, or RandomResizedCrop of image_size"
                )
        return torch.stack(augmented)
