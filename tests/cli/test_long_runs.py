"""Meta-training on long inner runs through the real command line, killed and resumed."""

import pytest
from support.agents import wait_for
from support.commands import run
from support.programs import Program
from support.runs import RUN, TINY, assert_same, scalars, state, succeeded

STEPS = 60


@pytest.mark.parametrize("rule", ["OptimizerNetwork", "ScaledOptimizerNetwork"])
def test_a_killed_run_resumes_to_the_same_bits_in_the_middle_of_its_inner_runs(rule, tmp_path, metasgd):
    arguments = [
        *("fit", *TINY, "--trainer.max_steps", str(STEPS), "--trainer.val_check_interval", "20"),
        *("--model.update_rule", rule, "--model.update_rule.init_args.learning_rate", "0.001"),
        *("--model.update_rule.init_args.inputs", "[loss,trend,progress]", "--model.outer.freeze_network", "true"),
        *("--model.inner_steps", "4", "--model.segments", "3", "--data.meta_batch_size", "4"),
        *("--last_checkpoint.every_n_steps", "10"),  # no multiple of the segments: runs are under way
    ]
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        folder.mkdir()
    run(*arguments, cwd=there)
    process = Program(*arguments, cwd=here)
    wait_for(here / RUN / "checkpoints/last.ckpt")
    process.kill()
    assert 0 < state(here / RUN / "checkpoints/last.ckpt")["global_step"] < STEPS
    moved = str(here / RUN / "checkpoints/last.ckpt")
    succeeded(metasgd(*arguments, "--ckpt_path", moved))
    for name in ("last", "best"):
        a, b = (state(folder / RUN / "checkpoints" / f"{name}.ckpt") for folder in (here, there))
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
            assert_same(a[key], b[key])
    for tag in ("train/loss", "val/mse", "outer/gradient_norm"):
        assert scalars(here / RUN, tag) == scalars(there / RUN, tag)
