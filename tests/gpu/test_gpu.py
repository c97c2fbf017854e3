"""On a CUDA device: the same gradients as on the CPU, the same run, lower precision, repeatability, memory."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from support.by_hand import config_of, curves_of, largest_difference, moved, tasks_of
from support.runs import ROOT, TINY, scalars, state
from torch import nn

from metasgd.cli.main import main
from metasgd.data.class_pool import ClassPool
from metasgd.data.class_sampler import ClassSampler
from metasgd.data.glyphs.source import Glyphs
from metasgd.data.packed_plan import PackedPlan
from metasgd.data.plan import tasks_of as tasks_of_plan
from metasgd.data.task_shape import TaskShape
from metasgd.data.transforms.distortion import Distorted
from metasgd.data.transforms.rotation import Rotated
from metasgd.meta.capture import CudaCapture
from metasgd.meta.engines import Loop, Vmap
from metasgd.meta.graph import Graph
from metasgd.meta.meta_gradient import merge_gradients, meta_gradient
from metasgd.nn.networks import MLP, Conv4
from metasgd.rules.gradient_descent import PerParameter
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule

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

    return engine.run(on, merge_gradients, config, tasks, inner_steps, ("meta_gradient", recompute))


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


@pytest.mark.filterwarnings("ignore:GPU available but not used")
def test_a_run_is_that_of_the_cpu_and_its_checkpoint_serves_there(fit):
    double = ["--trainer.precision", "64-true"]
    on_cpu = ["--trainer.accelerator", "cpu"]
    here, there = fit("gpu", *double, *ON_DEVICE), fit("cpu", *double, *on_cpu)
    a, b = last(here)["state_dict"], last(there)["state_dict"]
    assert all(torch.allclose(a[n].cpu(), b[n], rtol=1e-8, atol=1e-10) for n in b)
    path = str(here / "checkpoints" / "last.ckpt")
    assert main(["fit", *TINY, *double, *on_cpu, "--trainer.max_steps", "12", "--ckpt_path", path]) == 0
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
    for inner_steps in (1, 100):
        config = config_of(Conv4(width=32), PerParameter(0.01), inner_steps)
        config, tasks = moved(config, tasks_of(1, 5, 5, 15, (1, 28, 28)), DEVICE)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        engine = recorded()
        for _ in range(3):
            gradient(config, tasks, engine, inner_steps, recompute=True)
        assert engine.n_made == 1
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 1.5 * peaks[0]  # with a graph for each, about 50 times


class Residual(nn.Module):
    """Two blocks of a residual network, in channels_last as supervised training on a GPU has them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.first, self.second = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6, track_running_stats=False) for _ in range(3))
        self.head = nn.Linear(6 * 7 * 7, 5)
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        x = F.max_pool2d(self.norms[0](self.stem(x)).relu(), 2)
        y = self.norms[2](self.second(self.norms[1](self.first(x)).relu()))
        return self.head(F.max_pool2d((x + y).relu(), 2).flatten(1))


def recorded():
    return Graph(Vmap(3), CudaCapture())


@pytest.mark.parametrize("network", [Residual, lambda: Conv4(5, width=8).to(memory_format=torch.channels_last)])
def test_any_layout_can_be_stacked_and_recorded(network):
    torch.manual_seed(0)
    work = config_of(network(), PerParameter(0.1), 2), tasks_of(5, 5, 1, 3, (1, 28, 28))
    expected = gradient(*work, Loop(), 2)
    there = moved(*work, DEVICE)
    engine = recorded()
    for n in (Vmap(), engine, engine, engine):
        found = gradient(*there, n, 2)
        assert largest_difference(on_cpu(found.theta), expected.theta) < 1e-10
        assert largest_difference(on_cpu(found.phi), expected.phi) < 1e-10
    assert engine.n_made == 1


def test_replays_have_the_bits_of_eager_runs_in_float64_and_follow_their_tensors(work, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    config, tasks = moved(*work, DEVICE)
    engine = recorded()
    for b in (0, 1, 0, 1):
        some = tasks.tasks(b, b + 4)
        expected, found = gradient(config, some, Vmap(3)), gradient(config, some, engine)
        assert largest_difference(found.theta, expected.theta) == 0
        assert largest_difference(found.phi, expected.phi) == 0
        assert torch.equal(found.query_losses, expected.query_losses)
        with torch.no_grad():
            for p in (*config.network.parameters(), *config.rule.parameters()):
                p.mul_(1.05)
    assert engine.n_made == 1


def test_what_looks_at_a_value_runs_eagerly(caplog):
    class ByValue(nn.Linear):
        def forward(self, x):
            return super().forward(x) * (1 if self.bias.detach().sum().item() > 0 else 2)

    work = config_of(ByValue(4, 3), PerParameter(0.1), 1), tasks_of(2, 3, 1, 2, (4,))
    there, engine = moved(*work, DEVICE), Graph(Loop(), CudaCapture())
    expected = gradient(*there, Loop(), 1)
    for _ in range(3):
        assert largest_difference(gradient(*there, engine, 1).theta, expected.theta) < 1e-12
    assert "engine: graph runs this step eagerly" in caplog.text


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_first_command_of_the_readme_trains(tmp_path, monkeypatch, precision, caplog):
    """Conv4 on printed letters, with all that is the default on this device."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["metasgd"])
    short = ["--trainer.max_steps", "200", "--trainer.val_check_interval", "200", "--data.val_tasks", "50"]
    config = ["--config", str(ROOT / "configs" / "glyphs.yaml"), "--trainer.precision", precision]
    assert main(["fit", *config, *short, *ON_DEVICE]) == 0
    assert "eagerly" not in caplog.text
    ((_, accuracy),) = scalars(tmp_path / "runs" / "glyphs" / "version_0", "val/accuracy")
    assert accuracy > 0.5  # by chance a fifth


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_no_outer_step_waits_for_the_device():
    torch.manual_seed(0)
    module = MetaSGDModule(Conv4(width=8), PerParameter(0.1))
    data = EpisodicDataModule(Glyphs(), n_way=5, k_shot=1, n_query=2, meta_batch_size=4, val_tasks=8)
    take = module.training_step

    def watched(batch, batch_idx):
        torch.cuda.set_sync_debug_mode("error" if batch_idx > 2 else "default")
        try:
            return take(batch, batch_idx)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    module.training_step = watched
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "inference_mode")
    rest = {"check_val_every_n_epoch": None, "val_check_interval": 10, "log_every_n_steps": 0}
    trainer = Trainer(max_steps=10, max_epochs=1, accelerator="gpu", devices=1, **rest, **dict.fromkeys(off, False))
    trainer.fit(module, data)
    assert int(module.outer_steps) == 10


def test_tasks_made_here_are_those_of_the_cpu():
    images = np.random.default_rng(0).integers(0, 256, size=(9, 6, 1, 28, 28), dtype=np.uint8)
    pool = ClassPool.of_equal_counts(images, tuple(map(str, range(9))), np.zeros(9, dtype=np.int64))
    plain = ClassSampler(pool, "train", 0, TaskShape(5, 1, 3))
    thick = Distorted(plain, 0.0, "train", 0, thickness=1.0)
    changed = ((Rotated(plain, "train", 0), 0), (Distorted(plain, 1.0, "train", 0), 1), (thick, 1))
    for sampler, most in ((plain, 0), *changed):
        expected, plan = sampler.draw(np.arange(4)), sampler.plan(np.arange(4))
        there = PackedPlan.of(plan).pin_memory().to(DEVICE).plan()
        found = tasks_of_plan(there, torch.from_numpy(pool.images).to(DEVICE))
        for own, drawn in zip(found, expected, strict=True):
            assert (own.cpu().int() - drawn.int()).abs().max() <= most
