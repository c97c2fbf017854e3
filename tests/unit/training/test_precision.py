"""bf16-mixed: the network's passes in bfloat16; weights, gradients, rates and the outer step in float32."""

import pytest
import torch
import torch.nn.functional as F
from support.runs import TINY

from metasgd.cli.main import main
from metasgd.episode import Episode
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import meta_gradient
from metasgd.nn.networks import Conv4
from metasgd.rules.gradient_descent import PerParameter
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.runs.checkpoint_file import read_checkpoint


@pytest.mark.parametrize("n_tasks", [1, 2], ids=["one task", "stacked"])
@pytest.mark.parametrize("make", [lambda: PerParameter(0.1), lambda: OptimizerNetwork(0.1, 0.5)])
def test_exact_meta_gradients_are_finite_and_close_to_those_of_float32(make, n_tasks):
    torch.manual_seed(0)
    network, rule, steps = Conv4(width=16), make(), 3
    theta = dict(network.named_parameters())
    rule.bind(theta, steps)
    config = InnerLoopConfig(network, rule, F.cross_entropy, frozenset(theta))
    labels = torch.arange(5).repeat(n_tasks, 1)
    images = torch.rand(n_tasks, 5, 1, 28, 28), torch.rand(n_tasks, 25, 1, 28, 28)
    tasks = Episode(images[0], labels, images[1], labels.repeat_interleave(5, dim=1), labels, torch.arange(n_tasks))
    found = {}
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            gradient = meta_gradient(config, theta, tasks, steps)
        tensors = [*gradient.theta.values(), *gradient.phi.values()]
        assert {t.dtype for t in [*tensors, *gradient.chosen.values(), gradient.query_losses]} == {torch.float32}
        found[enabled] = torch.cat([t.flatten() for t in tensors])
    assert found[True].isfinite().all()
    assert not torch.equal(found[True], found[False])  # it was bfloat16
    assert F.cosine_similarity(found[True], found[False], dim=0) > 0.95


@pytest.mark.parametrize("engine", ["vmap", "threads"])
def test_a_run_in_bf16_trains_on_the_cpu_and_keeps_float32(engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["metasgd"])
    rule = ["--model.update_rule", "OptimizerNetwork", "--model.inner_steps", "2"]
    assert main(["fit", *TINY, *rule, "--trainer.precision", "bf16-mixed", "--model.engine", engine]) == 0
    content = read_checkpoint(tmp_path / "runs/sinusoid/version_0/checkpoints/last.ckpt")
    assert content["global_step"] == 8
    assert content["metasgd_skipped"]["total"] == 0
    tensors = content["state_dict"].values()
    assert all(t.dtype == torch.float32 and t.isfinite().all() for t in tensors if t.is_floating_point())
