"""What a test leaves: the table, results.json and tasks.csv."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from upath import UPath

from metasgd.episode import Episode
from metasgd.meta.full_unroll import FullUnroll
from metasgd.meta.reached import adapts_in_words, reached
from metasgd.nn.networks import uses_batch_statistics
from metasgd.reporting.results import Protocol, TestResult, files, table
from metasgd.runs.storage import write_whole
from metasgd.runs.strict_json import as_bytes
from metasgd.training.callbacks.run_folder import written_in
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule


class RecordTest(Callback):
    """Prints the table of a test and writes ``results.json`` in the run's folder."""

    def __init__(self, source: Mapping[str, Any], checkpoint: str | None) -> None:
        self.source, self.checkpoint = source, checkpoint
        self.adapts = "all"  # as in long runs, which train all of a network

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Episode,
        batch_idx: int,
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """Find what adapts on the first test task."""
        assert isinstance(pl_module, MetaSGDModule)
        if batch_idx or not trainer.is_global_zero:
            return
        if isinstance(pl_module.unroll, FullUnroll):
            tasks, steps = pl_module.as_inputs(batch), pl_module.eval_inner_steps
            found = reached(pl_module.config, pl_module.held.names, tasks, steps)
            self.adapts = adapts_in_words(pl_module.config, found)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        trainer.test_loop.verbose = False  # the table below says it all

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaSGDModule)
        folder = trainer.log_dir  # asked by all processes: the first one tells the others
        assert folder is not None
        data = trainer.datamodule  # type: ignore[attr-defined] # set by Trainer.test
        assert isinstance(data, EpisodicDataModule)
        result = pl_module.test_result()
        if not trainer.is_global_zero:
            return
        shape = data.eval_shape
        protocol = Protocol(
            metric=pl_module.objective.metric,
            n_way=shape.n_way,
            k_shot=shape.k_shot,
            n_query=shape.n_query,
            inner_steps=pl_module.eval_inner_steps,
            adapts=self.adapts,
            transductive=pl_module.config.transductive if uses_batch_statistics(pl_module.network) else None,
            one_alphabet=shape.one_alphabet,
            data_seed=data.seed,
            source=self.source["class_path"].rpartition(".")[2],
            source_options=self.source.get("init_args", {}),
            update_rule=type(pl_module.update_rule).__name__,
            checkpoint=self.checkpoint,
            outer_steps=int(pl_module.outer_steps),
        )
        with written_in(folder):
            write(UPath(folder), result, protocol)
        Console().print(table(result, protocol))
        Console().print(f"written to {folder}/results.json, task by task to tasks.csv", soft_wrap=True, markup=False)


def write(folder: Path | UPath, result: TestResult, protocol: Protocol) -> None:
    """Write ``results.json`` and ``tasks.csv`` in a run's folder."""
    tasks, content = files(result, protocol)
    write_whole(folder / "tasks.csv", tasks.encode())
    write_whole(folder / "results.json", as_bytes(content))
