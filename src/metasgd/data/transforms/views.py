"""Views of a task's pictures: the same task as others might have drawn or photographed its support set."""

import torch
from torch import Tensor

from metasgd.data.images.polarity import Ink
from metasgd.data.rng import Split, task_stream
from metasgd.data.transforms.affine import distorted
from metasgd.data.transforms.distortion import random_maps
from metasgd.episode import Episode
from metasgd.errors import UserError

STRENGTH = 1.0
"""Of the distortions, as for ``Distorted``."""
MOST_VIEWS = 10_000


def support_views(pictures: Tensor, n_views: int, ink: Ink | None) -> list[Tensor]:
    """Views of one support set: as ``views_of`` has them of test task 0 at seed 0.

    Args:
        pictures: uint8 ``[X, channels, height, width]``.
        n_views: V, with the pictures as they are, which come first.
        ink: as for ``views_of``.
    """
    x, y = pictures[None], torch.zeros(1, len(pictures), dtype=torch.int64)
    task = Episode(x, y, x[:, :0], y[:, :0], y[:, :1], torch.zeros(1, dtype=torch.int64))
    return [view.support_x[0] for view in views_of(task, n_views, ink, "test", 0)]


def views_of(tasks: Episode, n_views: int, ink: Ink | None, split: Split, seed: int) -> list[Episode]:
    """The tasks as they are, and again with every picture of their support sets distorted, each by a map of its own.

    The query sets stay. View v of a task is a function of (seed, split, task's number, v), whatever else is drawn.

    Args:
        tasks: with pictures uint8 ``[B, X, channels, height, width]``, on any device.
        n_views: V, with the tasks as they are.
        ink: of drawings, whose paper continues beyond the rim; other pictures are mirrored there.
        split: of the tasks.
        seed: of the tasks.

    Returns:
        V meta-batches.

    Raises:
        UserError: with several views, the tasks have no such pictures.
    """
    if n_views == 1:
        return [tasks]
    if tasks.support_x.ndim != 5 or tasks.support_x.dtype != torch.uint8:
        raise UserError(
            f"eval_views is {n_views}, but these tasks have no pictures to distort (their support sets are"
            f" {tasks.support_x.dtype} of the shape {tuple(tasks.support_x.shape[1:])}): use 1"
        )
    return [tasks, *(_view(tasks, v, ink, split, seed) for v in range(1, n_views))]


def _view(tasks: Episode, v: int, ink: Ink | None, split: Split, seed: int) -> Episode:
    n = tasks.support_x.shape[1]
    streams = (task_stream(seed, split, index, "view", v) for index in tasks.task_index.tolist())
    maps = torch.stack([torch.from_numpy(random_maps(stream, n, STRENGTH)) for stream in streams])
    seen = _distorted(tasks.support_x.flatten(0, 1), maps.flatten(0, 1).to(tasks.support_x.device), ink)
    return tasks._replace(support_x=seen.reshape(tasks.support_x.shape))


def _distorted(pictures: Tensor, maps: Tensor, ink: Ink | None) -> Tensor:
    if ink == "dark":
        return 255 - distorted(255 - pictures, maps)
    return distorted(pictures, maps, beyond="zeros" if ink else "reflection")
