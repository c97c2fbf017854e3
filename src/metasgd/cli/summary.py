"""What ``fit`` says before its first step."""

from collections.abc import Iterator

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from metasgd.data.plan import PlanningSampler
from metasgd.errors import counted
from metasgd.reporting.text import printable
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule

WIDTH = 9  # of the names before the lines


@rank_zero_only
def say_what_begins(module: MetaSGDModule, data: EpisodicDataModule, trainer: Trainer, folder: str | None) -> None:
    """The network by its parts and what of it adapts, the rates, the tasks, the classes, the run's folder.

    Args:
        module: that is trained.
        data: set up for the training.
        trainer: of the training.
        folder: of the run; None for one that leaves nothing behind.
    """
    for name, said in _rows(module, data, trainer, folder):
        print(f"{name:{WIDTH}} {printable(said)}")


def _rows(
    module: MetaSGDModule, data: EpisodicDataModule, trainer: Trainer, folder: str | None
) -> Iterator[tuple[str, str]]:
    network, rule = module.network, module.update_rule
    yield "network", f"{type(network).__name__}: {', '.join(_parts(network, module.config.adapted))}"
    rates = sum(rate.numel() for rate in rule.learned_rates().values())
    learned = sum(p.numel() for p in rule.parameters())
    yield "rule", f"{type(rule).__name__}: {learned:,} learned values" + (f", {rates:,} of them rates" if rates else "")
    environment, metric = module.objective.environment, module.objective.metric
    unit = "trajectories" if metric == "return" else "points"
    classes = metric == "accuracy"
    shapes = [f"{s.n_way}-way {s.k_shot}-shot" if classes else f"{s.k_shot} {unit}" for s in data.train_shapes]
    task = ", ".join(shapes) + " in turn" * (len(shapes) > 1)
    source = type(data.source if environment is None else environment).__name__
    steps = counted(module.inner_steps, "inner step")
    yield "tasks", f"{task} of {source}, {steps}; {data.meta_batch_size} to an outer step"
    pools = {split: len(s.pool.names) for split, s in data.samplers.items() if isinstance(s, PlanningSampler)}
    listed = {split: len(names) for split, names in data.contents.items()}  # of some sources groups of classes
    if pools:
        counts = {**pools, **(listed if pools.items() <= listed.items() else {})}
        yield "classes", ", ".join(f"{n:,} {split}" for split, n in counts.items())
    yield "training", f"{_many(trainer.max_steps, 'outer step')}; {_validation(trainer, data.eval_tasks['val'])}"
    yield "run", folder or "none, since nothing is saved"


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _validation(trainer: Trainer, tasks: int) -> str:
    limit = trainer.limit_val_batches
    if limit == 0:
        return "no validation"
    dry = bool(trainer.fast_dev_run)  # type: ignore[attr-defined] # set by Trainer.__init__
    by = f"fast_dev_run {limit}" if dry else f"limit_val_batches {limit}"
    limited = "" if isinstance(limit, float) and limit == 1 else f", limited by trainer.{by}"
    return f"a validation is {_many(tasks, 'task')}{limited}"


def _parts(network: nn.Module, adapted: frozenset[str]) -> Iterator[str]:
    """Each part of a network with the number of its parameters, and of those that adapt where that is not all."""
    parts: dict[str, list[tuple[str, int]]] = {}
    for name, p in network.named_parameters():
        parts.setdefault(name.partition(".")[0], []).append((name, p.numel()))
    for part, named in parts.items():
        every, adapting = sum(n for _, n in named), sum(n for name, n in named if name in adapted)
        yield f"{part} {every:,}" + ("" if adapting == every else f" ({adapting:,} adapt)")
