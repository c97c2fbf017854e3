"""The configuration of a run, in its folder and in its checkpoints."""

from functools import cached_property
from typing import Any

from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from metasgd.runs.checkpoint_schema import CONFIG_KEY
from metasgd.runs.folders import KEYWORDS, RESUME
from metasgd.training.callbacks.of_trainer import written_in
from metasgd.training.loggers import as_list


class SaveFitConfig(SaveConfigCallback):
    """Saves the configuration of a training run in its folder and in its checkpoints.

    Evaluating a run changes neither. What is saved repeats the run from its start, in a folder of its own.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **options: Any) -> None:
        config = config.clone()
        for logger in as_list(config.trainer.logger):
            if isinstance(logger, Namespace) and "version" in logger.init_args:
                logger.init_args.version = None
        if "run.version" in config:
            config["run.version"] = None
        if config.ckpt_path in (*KEYWORDS, RESUME):
            config.ckpt_path = None
        super().__init__(parser, config, **options)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing: it is written at the start of the fit."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with written_in(trainer.log_dir):
            super().setup(trainer, pl_module, "fit")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = self._config_text

    @cached_property
    def _config_text(self) -> str:
        """Made once: it takes longer than many an outer step."""
        text: str = self.parser.dump(self.config, skip_unset=False)
        return text
