"""Networks that others designed, through the real commands: meta-trained, evaluated, adapted and exported."""

import csv
import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from support.runs import ROOT, state
from torch import nn
from torchvision.models import mobilenet_v3_small

import metasgd
from metasgd.cli.main import main
from metasgd.data.images.decoding import PictureForm, read_picture
from metasgd.data.task_shape import TaskShape
from metasgd.nn.export import as_onnx

NETWORKS = {
    "mobilenet_v3_small": {"model": "mobilenet_v3_small", "image_size": 32},
    "resnet18": {"model": "resnet18", "image_size": 32},
    "timm/vit_tiny_patch16_224": {"model": "timm/vit_tiny_patch16_224", "image_size": 32},
    "convnext_tiny": {"model": "convnext_tiny", "image_size": 32},
    "vit_b_16, shortened": {
        "model": "torchvision.models.VisionTransformer",
        "image_size": 32,
        "model.init_args.image_size": 32,
        "model.init_args.patch_size": 16,
        "model.init_args.num_layers": 2,
        "model.init_args.num_heads": 2,
        "model.init_args.hidden_dim": 16,
        "model.init_args.mlp_dim": 32,
    },
}

LAST_BLOCK = {
    "mobilenet_v3_small": {"body/classifier/0"},
    "resnet18": {"body/layer4/1"},
    "timm/vit_tiny_patch16_224": {"body/blocks/11", "body/norm"},  # a norm behind the last block has its own rate
    "convnext_tiny": {"body/features/7/2", "body/classifier/0"},
    "vit_b_16, shortened": {"body/encoder/layers/encoder_layer_1", "body/encoder"},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Classes of colour patterns, in train, val and test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["metasgd"])
    rng = np.random.default_rng(0)
    for c in range(12):
        place = tmp_path / "data" / ("train", "val", "test")[c // 4] / f"pattern{c}"
        place.mkdir(parents=True)
        pattern = rng.integers(0, 255, (8, 8, 3))
        for k in range(4):
            pixels = (pattern + rng.integers(-20, 20, (8, 8, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).resize((32, 32)).save(place / f"{k}.png")
    return tmp_path


def options(network, weights=None):
    trainer = {"max_steps": 2, "val_check_interval": 2, "accelerator": "cpu", "enable_progress_bar": "false"}
    data = {
        "root": "data",
        "cache_dir": "cache",
        "source.init_args.image_size": 32,
        "n_way": 3,
        "k_shot": 1,
        "n_query": 2,
    }
    few = {"val_tasks": 2, "test_tasks": 2, "meta_batch_size": 2, "eval_n_query": 2}
    given = NETWORKS[network] if weights is None else {**NETWORKS[network], "weights": weights}
    return [
        *("--config", str(ROOT / "configs" / "image_folder.yaml"), "--model.network", "Backbone"),
        *(f"--trainer.{o}={v}" for o, v in trainer.items()),
        *(f"--data.{o}={v}" for o, v in {**data, **few}.items()),
        *(f"--model.network.init_args.{o}={v}" for o, v in given.items()),
        *("--model.update_rule", "PerBlock", "--model.adapts", "last:2", "--model.eval_inner_steps", "1"),
        *("--trainer.logger.init_args.name", "backbone"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_a_backbone_goes_through_every_command(network, folder, caplog):
    assert main(["fit", *options(network)]) == 0
    assert ("switched off while adapting, being random" in caplog.text) == (
        network in ("mobilenet_v3_small", "convnext_tiny")
    )
    for command in ("test", "predict"):
        assert main([command, *options(network), "--ckpt_path", "best"]) == 0
    run = folder / "runs" / "backbone" / "version_0"
    assert len(json.loads((run / "results.json").read_text())["by_inner_step"]["metric"]) == 2
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    rates = {
        n.removeprefix("update_rule.eta.") for n in state(checkpoint)["state_dict"] if n.startswith("update_rule.")
    }
    assert rates == {"head", *LAST_BLOCK[network]}
    places = ["--support", "data/val", "--query", "data/val", "--output", "out.csv"]
    assert main(["adapt", "--ckpt_path", checkpoint, *places, "--save", "net.onnx", "--inner_steps", "1"]) in (0, 3)
    session = onnxruntime.InferenceSession("net.onnx")
    read = np.stack([np.asarray(Image.open(p)) for p in sorted((folder / "data" / "val").glob("*/*.png"))])
    (logits,) = session.run(None, {"x": read.transpose(0, 3, 1, 2).astype(np.float32) / 255})
    rows = [line.split(",") for line in (folder / "out.csv").read_text().splitlines()]
    assert [row[1] for row in rows[1:]] == [rows[0][3:][k] for k in logits.argmax(axis=1)]


@pytest.mark.slow
def test_a_resnet12_goes_through_every_command(folder):
    given = [o for o in options("resnet18") if "network" not in o and o != "Backbone"]
    given += ["--model.network", "ResNet12", "--model.network.init_args.widths=[4, 8, 8, 16]"]
    given += ["--model.network.init_args.image_size=32"]
    assert main(["fit", *given]) == 0
    for command in ("test", "predict"):
        assert main([command, *given, "--ckpt_path", "best"]) == 0
    checkpoint = "runs/backbone/version_0/checkpoints/best.ckpt"
    places = ["--support", "data/val", "--query", "data/val", "--output", "out.csv"]
    assert main(["adapt", "--ckpt_path", checkpoint, *places, "--save", "net.onnx"]) in (0, 3)
    assert onnxruntime.InferenceSession("net.onnx").get_inputs()[0].shape[1:] == [3, 32, 32]


SEQUENCES = """
import numpy as np
import torch
from torch import nn
from metasgd.data.rng import task_stream
from metasgd.data.source import Source
from metasgd.episode import Episode


class Waves(Source):
    def prepare(self, root, cache_dir):
        pass

    def sampler(self, split, root, cache_dir, seed, shape):
        return Sampler(split, seed, shape)


class Sampler:
    def __init__(self, split, seed, shape):
        self.split, self.seed, self.shape = split, seed, shape

    def draw(self, indices):
        n, k, q = self.shape.n_way, self.shape.k_shot, self.shape.n_query
        streams = [task_stream(self.seed, self.split, int(i)) for i in indices]
        means = np.stack([s.normal(size=(n, 1, 10, 4)) for s in streams])
        noise = np.stack([s.normal(size=(n, k + q, 10, 4)) for s in streams])
        x = torch.from_numpy(means + 0.1 * noise).float()
        y = torch.arange(n)
        return Episode(
            x[:, :, :k].flatten(1, 2), y.repeat_interleave(k).repeat(len(indices), 1),
            x[:, :, k:].flatten(1, 2), y.repeat_interleave(q).repeat(len(indices), 1),
            y.repeat(len(indices), 1), torch.from_numpy(np.asarray(indices)),
        )


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.layers(x)


class GRU(nn.GRU):
    def __init__(self):
        super().__init__(4, 6, batch_first=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("network", ["GRU", "Transformer"])
def test_networks_of_sequences_go_through_every_command(network, folder, monkeypatch):
    """On tasks of one's own, which adapt in Python: the command reads pictures."""
    (folder / "waves.py").write_text(SEQUENCES)
    monkeypatch.syspath_prepend(folder)
    given = [o for o in options("resnet18") if "data.source" not in o and "network" not in o and o != "Backbone"]
    given += ["--model.network", "Backbone", f"--model.network.init_args.model=waves.{network}"]
    given += ["--model.network.init_args.image_size=[10, 4]", "--data.source", "waves.Waves"]
    assert main(["fit", *given]) == 0
    for command in ("test", "predict"):
        assert main([command, *given, "--ckpt_path", "best"]) == 0
    learner = metasgd.load("runs/backbone/version_0/checkpoints/best.ckpt")
    tasks = sys.modules["waves"].Sampler("test", 0, TaskShape(3, 2, 5)).draw([0])
    adapted = learner.adapt(tasks.support_x[0], tasks.support_y[0])
    expected = adapted.decision_function(tasks.query_x[0])
    assert (expected.argmax(axis=1) == tasks.query_y[0].numpy()).mean() > 0.5
    (folder / "net.onnx").write_bytes(as_onnx(adapted.network, adapted.example(), {}))
    (logits,) = onnxruntime.InferenceSession("net.onnx").run(None, {"x": tasks.query_x[0].numpy()})
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_holds_what_was_pretrained(folder, capsys):
    """Statistics that nothing changes, and weights whose file is not needed again."""
    network = mobilenet_v3_small()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    torch.save(network.state_dict(), folder / "first.pt")
    given = options("mobilenet_v3_small", "first.pt")
    assert main(["fit", *given]) == 0
    (folder / "first.pt").unlink()
    assert main(["test", *given, "--ckpt_path", "last"]) == 0
    saved = state(folder / "runs" / "backbone" / "version_0" / "checkpoints" / "last.ckpt")["state_dict"]
    stored = {n: t for n, t in network.state_dict().items() if "running" in n}
    assert stored
    assert all(torch.equal(saved[f"network.body.{n}"], t) for n, t in stored.items())
    assert main(["fit", *given]) == 2
    assert "model.network" in (said := capsys.readouterr().err) or "weights is first.pt" in said


@pytest.mark.slow
def test_a_linear_probe_is_exported_as_it_predicts(tmp_path, capsys):
    """Classes that a shade tells apart, in pictures whose brightness differs much more."""
    rng = np.random.default_rng(0)
    for name, colour in {"red": (12, -12, 0), "blue": (0, -12, 12)}.items():
        for k in range(18):
            part = tmp_path / ("support" if k < 12 else "query") / name
            part.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(40, 215) + np.array(colour) + rng.integers(-20, 20, (40, 50, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(part / f"{k}.png")
    torch.manual_seed(0)
    network = mobilenet_v3_small()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network(torch.rand(16, 3, 64, 64))  # whose statistics it stores, as a trained network has them
    torch.save(network.state_dict(), tmp_path / "w.pt")
    places = {"weights": "w.pt", "support": "support", "query": "query", "output": "out.csv", "save": "net.onnx"}
    given = [*(f"--{o}={tmp_path / name}" for o, name in places.items()), "--coverage=0.9", "--unknown=0.1"]
    assert main(["adapt", "--backbone", "mobilenet_v3_small", *given]) == 0
    assert "linear probe taken" in capsys.readouterr().out
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["label"] in row["set"].split("|") for row in rows if row["label"] != "unknown")
    pictures = [read_picture(tmp_path / "query" / row["file"], PictureForm(3, 224, 224)) for row in rows]
    x = np.stack(pictures).astype(np.float32) / 255
    (logits,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"x": x})
    expected = [[float(row[c]) for c in ("blue", "red")] for row in rows]
    np.testing.assert_allclose(torch.from_numpy(logits).softmax(dim=1), expected, atol=1e-4)
