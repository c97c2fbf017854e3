"""Search the inner steps and the outer rate with Optuna: `pip install optuna && python examples/optuna_search.py`."""

import optuna

import metasgd


def objective(trial: optuna.Trial) -> float:
    result = metasgd.fit(
        "sinusoid",
        **{
            "trainer.max_steps": STEPS,
            "trainer.val_check_interval": STEPS,
            "model.inner_steps": trial.suggest_int("inner_steps", 1, 3),
            "model.outer.optimizer.init_args.lr": trial.suggest_float("lr", 1e-4, 1e-2, log=True),
        },
    )
    trial.set_user_attr("checkpoint", str(result.checkpoint))
    assert result.best is not None
    return result.best


STEPS = 500


def main(trials: int = 20) -> optuna.Study:
    study = optuna.create_study(direction="minimize")
    study.optimize(objective, n_trials=trials)
    return study


if __name__ == "__main__":
    found = main()
    print(found.best_value, found.best_params, found.best_trial.user_attrs["checkpoint"])
