"""``metasgd.fit`` trains as the command line does, and returns what it came to."""

import pytest
from support.runs import RUN, assert_same, state

import metasgd
from metasgd.errors import UserError

OPTIONS = {
    "trainer.max_steps": 4,
    "trainer.val_check_interval": 2,
    "trainer.enable_progress_bar": False,
    "trainer.accelerator": "cpu",
    "data.val_tasks": 10,
    "model.outer.optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.003}},
}


def test_it_is_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["study.py", "--of=its own"])
    result = metasgd.fit("sinusoid", **OPTIONS)
    assert result.folder.resolve() == (tmp_path / RUN).resolve()
    assert result.metric == "val/mse"
    saved = state(result.checkpoint)
    scores = [s["best_model_score"] for n, s in saved["callbacks"].items() if n.startswith("BestCheckpoint")]
    assert [float(score) for score in scores] == [result.best]
    learned = metasgd.load(result.checkpoint).model
    assert_same({**learned.state_dict()}, {**saved["state_dict"]})
    again = metasgd.fit("sinusoid", **OPTIONS)
    assert again.folder != result.folder
    assert_same(state(again.checkpoint)["state_dict"], saved["state_dict"])


def test_mistakes_are_errors(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="config is sinusoidal, which is neither a file nor the name"):
        metasgd.fit("sinusoidal")
    with pytest.raises(UserError, match="cannot take with --model.inner_stpes=3"):
        metasgd.fit("sinusoid", **{"model.inner_stpes": 3})
    assert "Did you mean --model.inner_steps" in capsys.readouterr().err
    with pytest.raises(UserError, match="trainer.max_steps is 0"):
        metasgd.fit("sinusoid", **{"trainer.max_steps": 0})
    assert not [*tmp_path.iterdir()]
