"""What a run on a plane shows in TensorBoard: where the agents of some validation tasks went."""

from lightning import Trainer
from matplotlib.figure import Figure

from metasgd.episode import Episode
from metasgd.meta.model import MetaModel
from metasgd.reporting.figures import paths_figure
from metasgd.rl.paths import paths_of
from metasgd.training.callbacks.validation_figures import ValidationFigures, as_in_a_step
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.loggers import log_figure
from metasgd.training.module import MetaSGDModule

N_TASKS = 4


class ShowTrajectories(ValidationFigures):
    """Pictures the trajectories of some fixed tasks of navigation, before an inner step and after the last."""

    def draw(self, trainer: Trainer, module: MetaSGDModule, data: EpisodicDataModule) -> None:
        drawn = next(data.first_val_tasks(N_TASKS))
        figure = trajectories_figure(module, as_in_a_step(trainer, drawn))
        if figure is not None:
            log_figure(trainer, "trajectories", figure)


def trajectories_figure(model: MetaModel, tasks: Episode) -> Figure | None:
    """The trajectories of the first tasks, before an inner step and after the last; None if they are on no plane."""
    after = sorted({0, model.eval_inner_steps})
    found = paths_of(model, tasks.tasks(0, N_TASKS), after)
    return None if found is None else paths_figure(*found, after)
