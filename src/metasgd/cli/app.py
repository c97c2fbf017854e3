"""The command line: ``metasgd {fit,validate,test,predict} glyphs``, or another configuration."""

import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks import ProgressBar as Bar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from metasgd import __version__
from metasgd.cli.callbacks import callbacks_of
from metasgd.cli.closing import closing_lines
from metasgd.cli.commands import COMMANDS
from metasgd.cli.makers import validate_makers
from metasgd.cli.overview import DESCRIPTION, PURPOSES, program
from metasgd.cli.parser import Parser
from metasgd.cli.save_config import SaveFitConfig
from metasgd.cli.seeds import unfit_seed
from metasgd.cli.summary import say_what_begins
from metasgd.cli.trainer_options import (
    TRAINER_DEFAULTS,
    explaining_trainer,
    leave_out_refused,
    validate_monitors,
    validate_strategy,
    validate_trainer_options,
)
from metasgd.cli.values import validate_values
from metasgd.errors import UserError, counted, raise_problems
from metasgd.runs.folders import Run, find_start, new_run
from metasgd.runs.lock import locked, open_run
from metasgd.runs.outputs import validate_run_folder
from metasgd.runs.several import checkpoints_given
from metasgd.runs.storage import answering, place_of
from metasgd.runtime.launch import Launch, be_first
from metasgd.runtime.process import NoProfiler, collect_rarely, forget_absent_gpus
from metasgd.training.callbacks.checkpoints import BestCheckpoint, LastCheckpoint, resumed_by_request
from metasgd.training.callbacks.progress import ProgressBar
from metasgd.training.checkpoint_io import WholeCheckpointIO
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.ensemble import joined, validate_members
from metasgd.training.loggers import Place, RunTrainer, as_list, keep_earlier, loggers_of
from metasgd.training.module import MetaSGDModule
from metasgd.training.saved_states import validate_progress
from metasgd.training.start import initialise, require_checkpoint, resume

SAVE_DIR = "trainer.logger.init_args.save_dir"


class MetaSGDCLI(LightningCLI):
    """LightningCLI with checkpoints by keyword, runs that resume in their own folder, and a test record."""

    def __init__(self, args: list[str] | None = None) -> None:
        self.given = sys.argv[1:] if args is None else args
        with ExitStack() as self.held:  # the run's lock
            super().__init__(
                MetaSGDModule,
                EpisodicDataModule,
                trainer_class=RunTrainer,
                save_config_callback=SaveFitConfig,
                save_config_kwargs={"overwrite": True},
                trainer_defaults=TRAINER_DEFAULTS,
                parser_class=Parser,
                seed_everything_default=0,
                parser_kwargs={"prog": program(), "description": DESCRIPTION, "version": __version__},
                auto_configure_optimizers=False,
                args=args,
            )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """With its options if it is the given command, or none is given first: to add all four's takes the longest."""
        kwargs["description"] = PURPOSES[subcommand]
        if self.given and self.given[0] in self.subcommands() and self.given[0] != subcommand:
            return self.init_parser(**kwargs)
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        assert parser._subcommands_action is not None
        for command in (*COMMANDS, "configs"):  # listed here, and parsed by main
            parser._subcommands_action.add_subcommand(command, ArgumentParser(add_help=False))

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config = parser.parse_args(self.given)
        except UnicodeDecodeError as error:
            raise UserError(
                f"--config: a configuration is not text in UTF-8 ({error}). Give one of YAML, as configs/glyphs.yaml"
            ) from error
        if self.config.subcommand in COMMANDS:
            raise UserError(
                f"{self.config.subcommand} comes after options that are not its own: give the command first, as"
                f" {program()} {self.config.subcommand} --help shows"
            )
        options = self.config[self.config.subcommand]
        validate_makers(options)
        built = {"model": MetaSGDModule, "data": EpisodicDataModule, "trainer": Trainer}
        validate_values(options.as_dict(), {**built, "last_checkpoint": LastCheckpoint})
        raise_problems(unfit_seed(options.seed_everything or 0))
        for logger in as_list(options.trainer.logger):
            if isinstance(logger, Namespace) and (save_dir := logger.init_args.get("save_dir")) is not None:
                place_of(str(save_dir), SAVE_DIR)  # the logger will trip over one out of reach

    def _parse_ckpt_path(self) -> None:
        """Nothing: the configuration is never a checkpoint's, in which LightningCLI looks for hyperparameters."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        commands: dict[str, set[str]] = LightningCLI.subcommands()
        return commands | {"test": commands["test"] | {"verbose"}}  # it prints a table of its own

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.add_argument(
            "--init_from",
            type=str | None,
            default=None,
            help="a checkpoint whose network and update rule are the start, where --ckpt_path names none",
        )
        places = {
            "save_dir": (str | None, "the folder of all runs, by default the logger's"),
            "name": (str | None, "of the run, by default the logger's"),
            "version": (int | None, "K of the run's folder SAVE_DIR/NAME/version_K"),
        }
        for option, (kind, purpose) in places.items():
            parser.add_argument(f"--run.{option}", type=kind, default=None, help=purpose)
        parser.link_arguments("model.segments", "data.outer_steps_per_task")
        leave_out_refused(parser, self.given)
        parser.set_defaults({"model.update_rule": {"class_path": "metasgd.rules.PerParameter"}})

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        command = self.subcommand
        assert command is not None
        options = self.config[command]
        validate_trainer_options(config, command)
        dry = bool(config.get("fast_dev_run"))
        settings = [logger.as_dict() for logger in as_list(options.trainer.logger)]
        place = Place.of(settings, options.run.as_dict(), config.get("default_root_dir"))
        save_dir = place_of(place.save_dir, place.option)
        own = None if dry else self._lock
        given, *others = checkpoints_given(options.ckpt_path, save_dir, place.name, place.version, command == "fit")
        start = find_start(given, save_dir, place.name, place.version, fit=command == "fit", own=own)
        max_steps = int(config["fast_dev_run"]) if dry else config["max_steps"]
        configured = yaml.safe_load(self._subcommand_parsers[command].dump(options, skip_unset=False))
        resume(self.model, start, configured, fit=command == "fit", max_steps=max_steps)
        weights = start
        if options.init_from is not None and start.checkpoint is None:
            found = initialise(self.model, options.init_from, configured, self.datamodule.source, command == "fit")
            weights = start if command == "fit" else found  # a new run may have any pictures
        elif start.checkpoint is None and command != "fit":
            require_checkpoint(command, place.name)
        starts = [find_start(other, save_dir, place.name, place.version, fit=False) for other in others]
        self.members = joined(self.model, weights, starts, configured, self.datamodule.source)
        self.model.others = tuple(member.model for member in self.members[1:])
        if any(other.run != start.run for other in starts):  # what several runs do together is of none of them
            start = replace(start, run=None)
        checkpoint = str(start.checkpoint) if start.checkpoint else None
        self.config_init[self.subcommand]["ckpt_path"] = checkpoint
        with answering(save_dir, place.option):
            run = start.run or new_run(save_dir, place.name)
        resumed_at = start.outer_step if start.run and command == "fit" else None
        self.loggers_of = partial(loggers_of, config["logger"], settings)
        config["logger"] = False if dry else self.loggers_of(run, resumed_at)
        given_callbacks = config["callbacks"] = resumed_by_request(as_list(config["callbacks"]))
        if command == "fit":
            validate_monitors(given_callbacks, self.model.logged_names())
        has_bar = any(isinstance(callback, Bar) for callback in given_callbacks)
        self.best = BestCheckpoint(self.model.objective.metric, self.model.objective.higher_is_better)
        bar: list[Callback] = [] if has_bar or config["enable_progress_bar"] is False else [ProgressBar()]
        own_callbacks = [*callbacks, *bar]
        of_run = callbacks_of(
            command, own_callbacks, self.best, str(start), self.members, options.as_dict(), configured
        )
        config["profiler"] = config["profiler"] or NoProfiler()
        config["plugins"] = [*as_list(config.get("plugins")), WholeCheckpointIO()]
        with explaining_trainer(config):
            launch = Launch.here()
            if launch is not None:
                config.update(launch.fill_in(config["num_nodes"], config["devices"]))
            trainer = super()._instantiate_trainer(config, bar if dry else of_run)
        assert isinstance(trainer, RunTrainer)
        validate_strategy(trainer, config["strategy"])
        if launch is not None:
            launch.validate_targets(trainer)
        if start.checkpoint is not None:
            validate_progress(start.checkpoint, start.content, trainer)
        trainer.run_folder = None if dry else str(run.folder)
        self.start, self.run, self.resumed_at, self.option, self.dry = start, run, resumed_at, place.option, dry
        if trainer.world_size == 1 and be_first() and own and command == "fit" and run.folder.is_dir() and start.run:
            own(run)
        return trainer

    @rank_zero_only
    def _lock(self, run: Run) -> None:
        """Keep other processes out of a run that is to be trained, until this one has ended."""
        self.held.enter_context(locked(run, rank_zero_info))

    def before_fit(self) -> None:
        self._validate_fit("fit")
        say_what_begins(self.model, self.datamodule, self.trainer, None if self.dry else str(self.run.folder))
        forget_absent_gpus()
        collect_rarely()

    @rank_zero_only
    def after_fit(self) -> None:
        if self.dry:
            steps = counted(self.trainer.max_steps, "outer step")
            print(f"fast_dev_run: {steps} and a validation, of which nothing is saved")
            return
        # not log_dir, for which all processes would have to meet once more, and some may have left
        print(*closing_lines(str(self.run.folder), self.best), sep="\n")

    def before_validate(self) -> None:
        self._validate_fit("validate")

    def before_test(self) -> None:
        self._validate_fit("test")

    def before_predict(self) -> None:
        if self.model.objective.environment is not None:
            raise UserError(
                "predict writes what is predicted of each query, of which tasks of reinforcement learning have none:"
                " use test, which writes the mean return of every task"
            )
        self._validate_fit("predict")

    @rank_zero_only
    def _validate_fit(self, stage: str) -> None:
        """Refuse data that is not there, or tasks that fit neither it nor the network, before a run has a folder."""
        self.datamodule.trainer = self.trainer
        self.datamodule.prepare_data()
        self.datamodule.setup(stage)
        validate_members(self.members, self.datamodule, stage)
        if self.dry:
            return
        validate_run_folder(self.run.folder, stage, self.option)
        self.run = open_run(self.start, self.run, stage == "fit", rank_zero_info, self.held)
        if self.start.run is None:  # other processes may have taken the number meanwhile
            assert isinstance(self.trainer, RunTrainer)
            self.trainer.run_folder = str(self.run.folder)
            self.trainer.loggers = as_list(self.loggers_of(self.run, None))
        keep_earlier(self.trainer.loggers, self.run, self.resumed_at)
