"""Supplies meta-batches of tasks to the Trainer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from metasgd.data.cache import default_cache_dir
from metasgd.data.contents import Contents
from metasgd.data.packed_plan import PackedPlan
from metasgd.data.rng import Split
from metasgd.data.source import ClassSource, Sampler, Source
from metasgd.data.task_shape import TaskShape
from metasgd.data.transforms.in_turn import in_turn
from metasgd.data.transforms.views import MOST_VIEWS, views_of
from metasgd.episode import Episode
from metasgd.errors import UserError, arguments_of, at_argument, raise_problems, too_large, too_small
from metasgd.runtime.process import allow_workers, most_workers
from metasgd.training.device_pictures import DevicePictures
from metasgd.training.loader import FromStep, MetaBatches, OuterSteps, ResumingLoader

LARGEST_SEED = 2**63 - 1
MOST_TASKS = 10_000_000
"""Of an outer step or an evaluation, whose tasks are listed in memory."""


class EpisodicDataModule(LightningDataModule):
    """Tasks for meta-training (``fit``) and meta-testing (``test``), on disjoint classes.

    Task i of a split is a function of (seed, split, i) alone. Outer step t trains on the tasks
    ``t*B … t*B + B-1``; validation and test evaluate on the tasks ``0 … val_tasks-1`` and ``0 … test_tasks-1``,
    the same ones every time.

    Args:
        source: where the tasks come from.
        root: the folder with the data set's files.
        cache_dir: the folder for decoded images.
        n_way: N, classes in a task.
        k_shot: K, support examples per class.
        n_query: Q, query examples per class.
        eval_n_query: Q in validation and test, if another.
        meta_batch_size: B, tasks per outer step, over all processes together.
        val_tasks: tasks of each validation.
        test_tasks: tasks of the test.
        eval_views: V, views of each support set whose predictions evaluations average; it is adapted to as it is, and
            V − 1 times with every picture distorted; see ``views_of``.
        one_alphabet: draw a task's classes from one alphabet (group of classes).
        train_shapes: pairs of N and K that the outer steps of training take in turn; by default the one pair of
            ``n_way`` and ``k_shot``, which evaluations always have.
        outer_steps_per_task: outer steps that a task stays for; more than 1 in long inner runs (model.segments).
        seed: of the tasks; not of the initial weights, which is ``seed_everything``.
        num_workers: processes that draw meta-batches ahead; 0 draws in the main process, which is fastest
            where drawing is cheap.
        on_device: keep the pictures on the device that trains; those of whole meta-batches are looked up, rotated and
            distorted there. Which they are is drawn on the CPU all the same. ``auto`` does so on CUDA.
        cache_features: compute what frozen layers make of a picture once; in ``cache_dir``, for all layers below what
            adapts or learns, where it is the same as without; otherwise a line says why not.

    Example:
        >>> from metasgd.data import Sinusoid
        >>> tasks = EpisodicDataModule(Sinusoid(), n_way=1, k_shot=5, meta_batch_size=4)
        >>> tasks.train_shapes[0].k_shot, tasks.meta_batch_size
        (5, 4)
    """

    def __init__(
        self,
        source: Source,
        root: str = "data",
        cache_dir: str | None = None,
        n_way: int = 5,
        k_shot: int = 1,
        n_query: int = 15,
        eval_n_query: int | None = None,
        meta_batch_size: int = 16,
        val_tasks: int = 200,
        test_tasks: int = 1000,
        eval_views: int = 1,
        one_alphabet: bool = False,
        train_shapes: list[tuple[int, int]] | None = None,
        outer_steps_per_task: int = 1,
        seed: int = 0,
        num_workers: int = 0,
        on_device: bool | Literal["auto"] = "auto",
        cache_features: bool = False,
    ) -> None:
        self.options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.source = source
        with at_argument("data", arguments_of(EpisodicDataModule)):
            problems = too_small(
                ("meta_batch_size", meta_batch_size, 1),
                ("val_tasks", val_tasks, 2),
                ("test_tasks", test_tasks, 2),
                ("eval_views", eval_views, 1),
                ("seed", seed, 0),
                ("num_workers", num_workers, 0),
            )
            problems += too_large(
                ("meta_batch_size", meta_batch_size, MOST_TASKS),
                ("val_tasks", val_tasks, MOST_TASKS),
                ("test_tasks", test_tasks, MOST_TASKS),
                ("eval_views", eval_views, MOST_VIEWS),
                ("num_workers", num_workers, most_workers()),
            )
            if seed > LARGEST_SEED:
                problems.append(f"seed is {seed}: use at most {LARGEST_SEED}")
            if train_shapes is not None and (not train_shapes or outer_steps_per_task > 1):
                why = "a task of long runs stays for several outer steps: use null" if train_shapes else "give pairs"
                problems.append(f"train_shapes is {train_shapes}: {why}")
            raise_problems(problems)
            pairs = train_shapes or [(n_way, k_shot)]
            self.train_shapes = [TaskShape(n, k, n_query, one_alphabet) for n, k in pairs]
            self.eval_shape = TaskShape(n_way, k_shot, n_query if eval_n_query is None else eval_n_query, one_alphabet)
        self.root = Path(root).expanduser()
        self.cache_dir = Path(cache_dir or default_cache_dir()).expanduser()
        self.meta_batch_size = meta_batch_size
        self.eval_tasks: dict[Split, int] = {"val": val_tasks, "test": test_tasks}
        self.eval_views = eval_views
        self.outer_steps_per_task = outer_steps_per_task
        self.seed = seed
        self.num_workers = num_workers
        self.samplers: dict[Split, Sampler] = {}
        self.pictures = DevicePictures(on_device)
        self.cache_features = cache_features
        self.contents: Contents = {}

    def prepare_data(self) -> None:
        with self._naming_options():
            self.source.prepare(self.root, self.cache_dir)

    def setup(self, stage: str) -> None:
        with self._naming_options():
            self._setup(stage)

    def _setup(self, stage: str) -> None:
        needed: dict[str, tuple[Split, ...]] = {
            "fit": ("train", "val"),
            "validate": ("val",),
            "test": ("test",),
            "predict": ("test",),
        }
        allow_workers(self.num_workers * len(set(needed[stage]) - set(self.samplers)))
        problems: list[str] = []
        world_size = self.trainer.world_size if self.trainer else 1
        if stage == "fit" and self.meta_batch_size % world_size:
            share = self.meta_batch_size // world_size
            near = [world_size * k for k in (share, share + 1) if k]
            problems.append(
                f"meta_batch_size is {self.meta_batch_size}, which cannot be divided over {world_size}"
                f" processes: use {' or '.join(map(str, near))}"
            )
        for split in needed[stage]:
            if split in self.eval_tasks and self.eval_tasks[split] < world_size:
                problems.append(
                    f"{split}_tasks is {self.eval_tasks[split]}, but there are {world_size} processes, each of"
                    f" which needs a task: use at least {world_size}"
                )
            samplers = []
            for shape in self.train_shapes if split == "train" else [self.eval_shape]:
                try:
                    samplers.append(self.source.sampler(split, self.root, self.cache_dir, self.seed, shape))
                except UserError as error:
                    problems += error.problems
            if samplers:
                self.samplers[split] = in_turn(samplers, self.meta_batch_size)
        raise_problems(problems)
        self.contents = self.source.contents(self.root, self.cache_dir)

    @contextmanager
    def _naming_options(self) -> Iterator[None]:
        own, of_source = arguments_of(EpisodicDataModule), arguments_of(type(self.source))
        with at_argument("data", own), at_argument("data.source.init_args", of_source - own):
            yield

    def state_dict(self) -> dict[str, Any]:
        return {"contents": self.contents} if self.contents else {}

    def first_val_tasks(self, n: int) -> Iterator[Episode]:
        """The first n validation tasks, if there are so many; as many at a time as training holds in memory."""
        n = min(n, self.eval_tasks["val"])
        for start in range(0, n, self.meta_batch_size):
            yield self.samplers["val"].draw(np.arange(start, min(start + self.meta_batch_size, n)))

    def example(self) -> Episode:
        """The first task of a split that was set up, as a meta-batch of one."""
        with self._naming_options():
            split, sampler = next(iter(self.samplers.items()))
            return self.views(sampler.draw(np.zeros(1, dtype=np.int64)), split)[-1]

    def views(self, tasks: Episode, split: Split) -> list[Episode]:
        """The views of tasks that an evaluation averages over: by default the tasks alone.

        Raises:
            UserError: there are to be several, and the tasks have no pictures.
        """
        ink = self.source.ink if isinstance(self.source, ClassSource) else None
        return views_of(tasks, self.eval_views, ink, split, self.seed)

    def train_dataloader(self) -> DataLoader[Episode | PackedPlan]:
        assert self.trainer is not None
        steps = OuterSteps(
            self.trainer.max_steps,
            self.meta_batch_size,
            self.trainer.global_rank,
            self.trainer.world_size,
            self.outer_steps_per_task,
        )
        # not ``completed``, which a checkpoint written at the end of a step does not count that step in
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined] # typed as its base
        return self._loader("train", steps, first=done)

    def val_dataloader(self) -> DataLoader[Episode | PackedPlan]:
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Episode | PackedPlan]:
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Episode | PackedPlan]:
        return self._eval_loader("test")

    def _eval_loader(self, split: Split) -> DataLoader[Episode | PackedPlan]:
        assert self.trainer is not None
        n, rank, world_size = self.eval_tasks[split], self.trainer.global_rank, self.trainer.world_size
        own = range(n * rank // world_size, n * (rank + 1) // world_size)
        share = max(1, self.meta_batch_size // world_size)
        blocks = [own[i : i + share] for i in range(0, len(own), share)]
        return self._loader(split, blocks, first=0)

    def on_after_batch_transfer(self, batch: Episode | PackedPlan, dataloader_idx: int) -> Episode:
        return self.pictures.made(batch.plan()) if isinstance(batch, PackedPlan) else batch

    def _loader(self, split: Split, blocks: Sequence[Sequence[int]], first: int) -> DataLoader[Episode | PackedPlan]:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        return ResumingLoader(
            MetaBatches(self.pictures.draws(split, self.samplers[split], device), blocks),
            batch_size=None,
            sampler=FromStep(first, len(blocks)),
            num_workers=self.num_workers,
            pin_memory=device.type == "cuda",  # which Lightning then copies from meanwhile
        )
