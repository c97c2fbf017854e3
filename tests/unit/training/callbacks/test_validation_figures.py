import pytest
from support.trainers import plain_trainer

from metasgd.data.sinusoid import Sinusoid
from metasgd.nn.networks import MLP
from metasgd.rules.gradient_descent import PerParameter
from metasgd.training.callbacks.curves import ShowChoices, ShowCurves
from metasgd.training.callbacks.tensorboard import ShowRates, ShowTasks
from metasgd.training.callbacks.trajectories import ShowTrajectories
from metasgd.training.callbacks.validation_figures import ValidationFigures
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule


@pytest.mark.parametrize(
    ("shows", "in_validate"),
    [(ShowCurves, True), (ShowChoices, True), (ShowTrajectories, True), (ShowRates, False), (ShowTasks, False)],
)
def test_after_which_validations_it_draws(shows: type[ValidationFigures], in_validate, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(shows, "draw", lambda self, trainer, module, data: drawn.append(str(trainer.state.fn)))
    data = EpisodicDataModule(Sinusoid(), n_way=1, k_shot=5, n_query=10, val_tasks=4, test_tasks=4)
    module = MetaSGDModule(MLP(1, [8], 1), PerParameter(0.01), loss="mse")
    trainer = plain_trainer(tmp_path, 4, callbacks=[shows()], enable_checkpointing=False)
    trainer.fit(module, data)
    of_fit = len(drawn)
    assert of_fit > 0
    trainer.validate(module, data, verbose=False)
    assert len(drawn) - of_fit == in_validate
    trainer.test(module, data, verbose=False)
    assert len(drawn) - of_fit == in_validate


def test_it_draws_nothing_where_no_logger_takes_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(ShowCurves, "draw", lambda *_: pytest.fail("drawn"))
    data = EpisodicDataModule(Sinusoid(), n_way=1, k_shot=5, n_query=10, val_tasks=4)
    module = MetaSGDModule(MLP(1, [8], 1), PerParameter(0.01), loss="mse")
    plain_trainer(tmp_path, 4, callbacks=[ShowCurves()], enable_checkpointing=False, logger=False).fit(module, data)
