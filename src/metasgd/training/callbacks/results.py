"""What evaluations leave: a table, or a line; of a test results.json and tasks.csv too."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from upath import UPath

from metasgd.episode import Episode
from metasgd.meta.full_unroll import FullUnroll
from metasgd.meta.model import MetaModel
from metasgd.meta.reached import adapts_in_words, reached
from metasgd.nn.networks import uses_batch_statistics
from metasgd.reporting.results import Protocol, TestResult, files, in_words, table
from metasgd.reporting.text import printable
from metasgd.runs.storage import write_whole
from metasgd.runs.strict_json import as_bytes
from metasgd.training.callbacks.of_trainer import data_of, written_in
from metasgd.training.ensemble import Member
from metasgd.training.loggers import folder_of
from metasgd.training.module import MetaSGDModule


class ShowEvaluation(Callback):
    """Prints the table of a test or a validation; of a test it writes ``results.json`` in the run's folder."""

    def __init__(self, source: Mapping[str, Any], members: Sequence[Member]) -> None:
        self.source, self.members = source, members
        self.adapts = "all"
        self.shown = True

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Episode, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Find what adapts on the first task."""
        assert isinstance(pl_module, MetaSGDModule)
        if batch_idx or dataloader_idx or not trainer.is_global_zero:
            return
        self.adapts = " / ".join(dict.fromkeys(_adapts(member.model, batch) for member in self.members))

    on_validation_batch_start = on_test_batch_start

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.test_loop.verbose = False  # the table below says it all

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.shown, trainer.validate_loop.verbose = trainer.validate_loop.verbose, False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaSGDModule)
        result = TestResult.of(pl_module.val_figures.compute())
        if trainer.is_global_zero and self.shown:
            Console().print(table(result, self._protocol(trainer, pl_module), "validation"))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaSGDModule)
        folder = folder_of(trainer)
        result = pl_module.test_result()
        if not trainer.is_global_zero:
            return
        protocol = self._protocol(trainer, pl_module)
        with written_in(folder):
            write(folder, result, protocol)
        Console().print(table(result, protocol))
        for member in protocol.ensemble or ():
            line = printable(f"ensemble: {member['checkpoint']} of outer step {member['outer_steps']}")
            Console().print(line, soft_wrap=True, markup=False)
        Console().print(f"written to {folder}/results.json, task by task to tasks.csv", soft_wrap=True, markup=False)

    def _protocol(self, trainer: Trainer, module: MetaSGDModule) -> Protocol:
        data = data_of(trainer)
        shape, environment = data.eval_shape, module.objective.environment
        about = [member.about() for member in self.members]
        known = self.members[0].start.checkpoint is not None
        return Protocol(
            metric=module.objective.metric,
            n_way=shape.n_way,
            k_shot=shape.k_shot,
            n_query=shape.n_query,
            inner_steps=module.eval_steps,
            adapts=self.adapts,
            transductive=module.config.transductive if uses_batch_statistics(module.network) else None,
            one_alphabet=shape.one_alphabet,
            data_seed=data.seed,
            source=self.source["class_path"].rpartition(".")[2] if environment is None else type(environment).__name__,
            source_options=self.source.get("init_args", {}),
            update_rule=", ".join(dict.fromkeys(member["update_rule"] for member in about)),
            checkpoint=",".join(str(member["checkpoint"]) for member in about) if known else None,
            outer_steps=int(module.outer_steps),
            eval_views=data.eval_views,
            ensemble=about if len(about) > 1 else None,
        )


class SayValidations(Callback):
    """A line for each validation of a training, with its 95 % interval."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaSGDModule)
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        found, metric = TestResult.of(pl_module.val_figures.compute()), pl_module.objective.metric
        if trainer.is_global_zero:
            value = in_words(found.metric[-1], found.metric_ci95[-1], metric)
            print(f"step {trainer.global_step}: val/{metric} {value}, val/loss {found.loss[-1]:.4f}")


def _adapts(model: MetaModel, tasks: Episode) -> str:
    if not isinstance(model.unroll, FullUnroll):
        return "all"  # as long runs do, which train all of a network
    found = reached(model.config, model.held.names, model.as_inputs(tasks), model.eval_inner_steps)
    return adapts_in_words(model.config, found)


def write(folder: Path | UPath, result: TestResult, protocol: Protocol) -> None:
    """Write ``results.json`` and ``tasks.csv`` in a run's folder."""
    tasks, content = files(result, protocol)
    write_whole(folder / "tasks.csv", tasks.encode())
    write_whole(folder / "results.json", as_bytes(content))
