"""On a CUDA device: the same gradients as on the CPU, the same run, lower precision, repeatability, memory."""

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, largest_difference, moved, tasks_of
from support.runs import TINY, scalars, state

from metasgd.cli.main import main
from metasgd.meta.engines import Loop, Vmap
from metasgd.meta.meta_gradient import merge_gradients, meta_gradient
from metasgd.nn.networks import MLP, Conv4
from metasgd.rules.gradient_descent import PerParameter
from metasgd.rules.optimizer_network import OptimizerNetwork

DEVICE = torch.device("cuda")
ON_DEVICE = ["--trainer.accelerator", "gpu", "--trainer.devices", "1"]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(params=["conv", "dense"])
def work(request):
    """A configuration and five of its tasks, in float64 on the CPU."""
    if request.param == "conv":
        return config_of(Conv4(width=8, image_size=28), PerParameter(0.1), 3), tasks_of(5, 5, 1, 3, (1, 28, 28))
    return config_of(MLP(1, [40, 40], 1), OptimizerNetwork(0.05, 0.3), 3, loss=F.mse_loss), curves_of(5, 5, 10)


def gradient(config, tasks, engine, inner_steps=3, recompute=False):
    theta = dict(config.network.named_parameters())

    def on(own, some):
        return meta_gradient(own, theta, some, inner_steps, recompute=recompute)

    return engine.run(on, merge_gradients, config, tasks, inner_steps)


def on_cpu(gradients):
    return {n: g.cpu() for n, g in gradients.items()}


@pytest.mark.parametrize("engine", [Loop(), Vmap()], ids=["loop", "vmap"])
def test_the_gradient_is_that_of_the_cpu_in_float64(work, engine):
    expected = gradient(*work, Loop())
    found = gradient(*moved(*work, DEVICE), engine)
    assert largest_difference(on_cpu(found.theta), expected.theta) < 1e-10
    assert largest_difference(on_cpu(found.phi), expected.phi) < 1e-10
    torch.testing.assert_close(found.query_losses.cpu(), expected.query_losses)


@pytest.mark.parametrize("engine", [Loop(), Vmap()], ids=["loop", "vmap"])
def test_the_gradient_is_that_of_the_cpu_in_float32(work, engine, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # whose products have 10 bits
    single = moved(*work, torch.float32)
    expected = gradient(*single, Loop())
    found = gradient(*moved(*single, DEVICE), engine)
    for a, b in ((found.theta, expected.theta), (found.phi, expected.phi)):
        for name in b:
            difference = (a[name].cpu() - b[name]).norm()
            assert difference <= 1e-3 * b[name].norm() + 1e-5, name


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Trains in this process under that name; returns the run's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["metasgd"])

    def run(name, *arguments):
        assert main(["fit", *TINY, "--trainer.logger.init_args.name", name, *arguments]) == 0
        return tmp_path / "runs" / name / "version_0"

    return run


def last(run):
    return state(run / "checkpoints" / "last.ckpt")


def test_a_run_is_that_of_the_cpu_and_its_checkpoint_serves_there(fit):
    double = ["--trainer.precision", "64-true"]
    here, there = fit("gpu", *double, *ON_DEVICE), fit("cpu", *double)
    a, b = last(here)["state_dict"], last(there)["state_dict"]
    assert all(torch.allclose(a[n].cpu(), b[n], rtol=1e-8, atol=1e-10) for n in b)
    path = str(here / "checkpoints" / "last.ckpt")
    assert main(["fit", *TINY, *double, "--trainer.max_steps", "12", "--ckpt_path", path]) == 0
    assert last(here)["global_step"] == 12


def test_a_run_repeats_itself_to_the_bit(fit):
    runs = [fit(name, "--trainer.deterministic", "true", *ON_DEVICE) for name in ("first", "second")]
    a, b = (last(run)["state_dict"] for run in runs)
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_bf16_mixed_learns_as_float32_does(fit):
    longer = ["--trainer.max_steps", "300", "--trainer.val_check_interval", "300", "--data.val_tasks", "200"]
    errors = []
    for precision in ("32-true", "bf16-mixed"):
        run = fit(precision, *longer, "--trainer.precision", precision, *ON_DEVICE)
        assert all(w.dtype != torch.bfloat16 for w in last(run)["state_dict"].values())
        ((_, error),) = scalars(run, "val/mse")
        errors.append(error)
    assert errors[1] == pytest.approx(errors[0], rel=0.1)


def test_memory_does_not_hold_a_graph_for_every_inner_step():
    torch.manual_seed(0)
    peaks = []
    for inner_steps in (1, 50):
        config = config_of(Conv4(width=32), PerParameter(0.01), inner_steps)
        config, tasks = moved(config, tasks_of(1, 5, 5, 15, (1, 28, 28)), DEVICE)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        gradient(config, tasks, Loop(), inner_steps, recompute=True)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 3 * peaks[0]  # with a graph for each, about 25 times
