"""What a run on a plane shows in TensorBoard: where the agents of some validation tasks went."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure

from metasgd.episode import Episode
from metasgd.meta.model import MetaModel
from metasgd.reporting.figures import paths_figure
from metasgd.rl.paths import paths_of
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.loggers import log_figure, takes_figures
from metasgd.training.module import MetaSGDModule

N_TASKS = 4


class ShowTrajectories(Callback):
    """Pictures the trajectories of some fixed tasks of navigation, before an inner step and after the last."""

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaSGDModule)
        data = trainer.datamodule  # type: ignore[attr-defined] # set by the Trainer's methods
        assert isinstance(data, EpisodicDataModule)
        if trainer.sanity_checking or not takes_figures(trainer):
            return
        drawn = next(iter(data.first_val_tasks(N_TASKS)))
        tasks = Episode(*(field.to(pl_module.device) for field in drawn))
        figure = trajectories_figure(pl_module, tasks)
        if figure is not None:
            log_figure(trainer, "trajectories", figure)


def trajectories_figure(model: MetaModel, tasks: Episode) -> Figure | None:
    """The trajectories of the first tasks, before an inner step and after the last; None if they are on no plane."""
    after = sorted({0, model.eval_inner_steps})
    found = paths_of(model, tasks.tasks(0, N_TASKS), after)
    return None if found is None else paths_figure(*found, after)
