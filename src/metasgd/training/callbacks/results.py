"""What a test leaves: the table, results.json and tasks.csv."""

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
from metasgd.reporting.results import Protocol, TestResult, files, table
from metasgd.reporting.text import printable
from metasgd.runs.storage import write_whole
from metasgd.runs.strict_json import as_bytes
from metasgd.training.callbacks.run_folder import written_in
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.ensemble import Member
from metasgd.training.module import MetaSGDModule


class RecordTest(Callback):
    """Prints the table of a test and writes ``results.json`` in the run's folder."""

    def __init__(self, source: Mapping[str, Any], members: Sequence[Member]) -> None:
        self.source, self.members = source, members
        self.adapts = "all"

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
        self.adapts = " / ".join(dict.fromkeys(_adapts(member.model, batch) for member in self.members))

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
        shape, environment = data.eval_shape, pl_module.objective.environment
        about = [member.about() for member in self.members]
        known = self.members[0].start.checkpoint is not None
        protocol = Protocol(
            metric=pl_module.objective.metric,
            n_way=shape.n_way,
            k_shot=shape.k_shot,
            n_query=shape.n_query,
            inner_steps=pl_module.eval_steps,
            adapts=self.adapts,
            transductive=pl_module.config.transductive if uses_batch_statistics(pl_module.network) else None,
            one_alphabet=shape.one_alphabet,
            data_seed=data.seed,
            source=self.source["class_path"].rpartition(".")[2] if environment is None else type(environment).__name__,
            source_options=self.source.get("init_args", {}),
            update_rule=", ".join(dict.fromkeys(member["update_rule"] for member in about)),
            checkpoint=",".join(str(member["checkpoint"]) for member in about) if known else None,
            outer_steps=int(pl_module.outer_steps),
            ensemble=about if len(about) > 1 else None,
        )
        with written_in(folder):
            write(UPath(folder), result, protocol)
        Console().print(table(result, protocol))
        for member in protocol.ensemble or ():
            line = printable(f"ensemble: {member['checkpoint']} of outer step {member['outer_steps']}")
            Console().print(line, soft_wrap=True, markup=False)
        Console().print(f"written to {folder}/results.json, task by task to tasks.csv", soft_wrap=True, markup=False)


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
