"""Networks made elsewhere: named, given weights and a head, and refused in one message where that cannot be."""

import logging
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from metasgd.errors import UserError
from metasgd.nn import Backbone, BatchNorm2d
from metasgd.nn.backbones.weight_files import weights_follow
from metasgd.nn.export import freeze_statistics

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def shaken(network: nn.Module) -> nn.Module:
    """With statistics and weights as no start has them."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, t in network.state_dict().items():
            if t.is_floating_point():
                t += 0.1 * torch.randn_like(t).abs() if name.endswith("running_var") else 0.05 * torch.randn_like(t)
    return network.eval()


def small_vit(image_size: int = 16) -> nn.Module:
    return models.VisionTransformer(image_size, 8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, dropout=0.1)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return shaken(models.resnet18())


def features_by_hand(resnet: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What torchvision's own network reads before its classifier, each of mean square 1."""
    read = []
    hook = resnet.fc.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    resnet((x - MEAN[:, None, None]) / STD[:, None, None])
    hook.remove()
    return read[0] / (read[0].square().mean(dim=1, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": {f"model.backbone.{n}": t for n, t in state.items()}, "epoch": 3},
        lambda state: {"teacher": {"optimizer": {}}, "model": {f"module._orig_mod.{n}": t for n, t in state.items()}},
        lambda state: {n: t for n, t in state.items() if not n.startswith("fc.") and "num_batches" not in n},
        lambda state: {n: t for n, t in state.items() if not n.startswith("fc.")} | {"fc.0.weight": torch.ones(2, 2)},
    ],
)
@torch.no_grad()
def test_weights_are_found_whatever_is_around_them(wrap, resnet, tmp_path, caplog):
    torch.save(wrap(resnet.state_dict()), tmp_path / "weights.pt")
    with caplog.at_level(logging.INFO, "metasgd"):
        network = Backbone("resnet18", str(tmp_path / "weights.pt"), image_size=32)
    assert caplog.messages[0].startswith(f"weights: {tmp_path / 'weights.pt'}")
    x = torch.rand(3, 3, 32, 32)
    read = []
    network.head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    network.train()(x)  # whose statistics are frozen, which makes no difference
    torch.testing.assert_close(read[0], features_by_hand(resnet, x), rtol=1e-5, atol=1e-5)
    assert torch.equal(network.body.bn1.running_mean, resnet.bn1.running_mean)


@torch.no_grad()
def test_safetensors_and_what_torchvision_has_downloaded(resnet, tmp_path, monkeypatch):
    save_file(dict(resnet.state_dict()), tmp_path / "weights.safetensors")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    url = models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(resnet.state_dict(), tmp_path / "hub" / "checkpoints" / url)
    for weights in (str(tmp_path / "weights.safetensors"), "DEFAULT", "ResNet18_Weights.IMAGENET1K_V1"):
        network = Backbone("resnet18", weights, image_size=32)
        assert torch.equal(network.body.layer4[1].conv2.weight, resnet.layer4[1].conv2.weight)
        assert network.frozen_statistics


@torch.no_grad()
def test_size_and_colours_come_with_the_weights():
    with weights_follow():
        network = Backbone("efficientnet_b1", "IMAGENET1K_V2")
    expected = models.EfficientNet_B1_Weights.IMAGENET1K_V2.transforms()
    assert network.image_shape == (3, expected.crop_size[0], expected.crop_size[0])
    assert network.mean.tolist() == pytest.approx(expected.mean)
    assert {"mean", "std"} <= network.state_dict().keys()
    grey = Backbone("resnet18", image_size=[1, 32, 32]).eval()
    x = torch.rand(2, 1, 32, 32)
    assert torch.equal(grey(x), grey(x.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("name", "size", "classifier"),
    [
        ("mobilenet_v3_small", 32, "classifier.3"),
        ("convnext_tiny", 32, "classifier.2"),
        ("squeezenet1_1", 32, "classifier.1"),
        ("timm/resnet18", 32, "fc"),
        ("timm/vit_tiny_patch16_224", 32, "head"),
    ],
)
@torch.no_grad()
def test_the_classifier_is_cut_off_wherever_it_is(name, size, classifier):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    network = Backbone(name, image_size=size).eval()
    assert type(network.body.get_submodule(classifier)) is nn.Identity
    y = network(torch.rand(2, *network.image_shape))
    assert y.shape == (2, 1)


def test_positions_of_a_transformer_are_resampled_for_another_size(tmp_path, caplog):
    torch.save(shaken(small_vit(32)).state_dict(), tmp_path / "vit.pt")
    with caplog.at_level(logging.INFO, "metasgd"):
        network = Backbone(small_vit(16), str(tmp_path / "vit.pt"))
    assert "encoder.pos_embedding resampled" in caplog.messages[-1]
    given = torch.load(tmp_path / "vit.pt")["encoder.pos_embedding"]
    found = network.body.encoder.pos_embedding
    corners = [1 + i for i in (0, 3, 12, 15)]  # which the ends of both grids share
    torch.testing.assert_close(found[:, 1:], given[:, corners])
    assert torch.equal(found[:, 0], given[:, 0])


@pytest.mark.parametrize("frozen", [True, False])
@torch.no_grad()
def test_statistics_are_frozen_or_of_the_batch(frozen, resnet):
    network = Backbone("resnet18", image_size=32, batch_norm="frozen" if frozen else None, features="plain").train()
    kinds = {type(m) for m in network.modules()}
    assert (nn.BatchNorm2d in kinds, BatchNorm2d in kinds) == (frozen, not frozen)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    x = torch.rand(4, 3, 32, 32)
    network.head.weight.fill_(0.1)
    alone, together = network(x[:2]), network(x)[:2]
    assert torch.allclose(alone, together, atol=1e-4) == frozen
    network.head.weight.zero_()
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


@torch.no_grad()
def test_an_export_keeps_stored_statistics(resnet, tmp_path):
    torch.save(resnet.state_dict(), tmp_path / "weights.pt")
    network = Backbone("resnet18", str(tmp_path / "weights.pt"), image_size=32)
    rows = {"head.weight": torch.randn(3, 512), "head.bias": torch.randn(3)}
    plain = freeze_statistics(network, rows, torch.rand(5, 3, 32, 32), 3)
    x = torch.rand(4, 3, 32, 32)
    expected = features_by_hand(resnet, x) @ rows["head.weight"].T + rows["head.bias"]
    torch.testing.assert_close(plain(x), expected, rtol=1e-4, atol=1e-4)


class Code:
    def __reduce__(self):
        return print, ("run",)


def refused(tmp_path, resnet):
    cut = {n: t for n, t in resnet.state_dict().items() if not n.startswith("layer4.1")}
    torch.save(cut | {"neck.weight": torch.ones(1), "conv1.weight": torch.ones(2)}, tmp_path / "part.pt")
    torch.save({"state_dict": resnet.state_dict(), "hyper_parameters": Code()}, tmp_path / "code.pt")
    (tmp_path / "torn.pt").write_bytes((tmp_path / "part.pt").read_bytes()[:5000])
    torch.save(models.mobilenet_v3_small().state_dict(), tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "numbers.pt")
    diverged = resnet.state_dict()
    torch.save(diverged | {"bn1.bias": diverged["bn1.bias"] + torch.nan}, tmp_path / "diverged.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Code(), protocol=4))
    (tmp_path / "text.pt").write_text("no weights\n")
    (tmp_path / "folder").mkdir()
    return {
        "part": r"10 missing \(layer4.1.*and 5 more\); 1 of no use here \(neck.weight\); 1 of another shape \(conv1",
        "code": "more than tensors and plain types",
        "text": "no file of weights. Give a state_dict",
        "torn": "cannot be read: it is damaged",
        "other": "of another network than resnet18",
        "numbers": "holds no tensor with a name: give a state_dict of resnet18",
        "diverged": "of which bn1.bias has values that are not finite",
        "pickle": "more than tensors and plain types",
        "folder": "which is a folder: give the file of weights in it",
    }


def test_files_that_do_not_fit_are_refused_in_one_message(resnet, tmp_path, capsys):
    said = refused(tmp_path, resnet)
    for name, expected in said.items():
        path = tmp_path / (name if name == "folder" else f"{name}.pt")
        with pytest.raises(UserError, match=expected) as it:
            Backbone("resnet18", str(path), image_size=32)
        assert len(it.value.problems) == 1
        assert str(path) in str(it.value)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "resnet19"}, "model is 'resnet19'.*Near names: resnet18"),
        ({"weights": "IMAGENET1K_V7"}, r"IMAGENET1K_V7, which is no file here, nor one of torchvision's: DEFAULT"),
        ({"model": "inception_v3"}, r"Inception3 does not take examples of the shape \[3, 16, 16\]"),
        ({"model": "vit_b_16", "image_size": 20}, "image_size is 20, for which vit_b_16 cannot be made"),
        ({"model": "maxvit_t"}, "image_size is 16, for which maxvit_t cannot be made: Input size"),
        ({"image_size": [4, 16, 16]}, r"image_size is \[4, 16, 16\]: resnet18 takes square pictures"),
        ({"mean": [0.5]}, r"mean is \[0.5\].*3 numbers each"),
        ({"model": nn.Flatten(), "image_size": None}, "image_size is needed with Flatten"),
        ({"classifier": "last"}, "classifier is 'last', but ResNet has no such module: it has conv1"),
        ({"model": nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True))}, "can be frozen only"),
        ({"n_way": 1}, "n_way is 1"),
    ],
)
def test_mistakes_are_said_in_one_message(options, said):
    with pytest.raises(UserError, match=said) as it:
        Backbone(**{"image_size": 16, **options})
    assert len(it.value.problems) == 1


def test_a_download_that_fails_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(models.ResNet18_Weights.DEFAULT.value, "url", (tmp_path / "no.pth").as_uri(), raising=False)
    with pytest.raises(UserError, match="torchvision cannot download here .*give its path"):
        Backbone("resnet18", "DEFAULT", image_size=32)


@pytest.mark.parametrize(
    "model",
    [
        nn.GRU(4, 6, batch_first=True),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1),
        nn.Sequential(nn.Flatten(), nn.Linear(20, 6), nn.GroupNorm(2, 6)),
    ],
    ids=["gru", "transformer", "features"],
)
@torch.no_grad()
def test_sequences_are_averaged_over_positions(model):
    network = Backbone(model, image_size=[5, 4], features="plain").eval()
    assert network.image_shape == (5, 4)
    read = []
    network.head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    x = torch.rand(3, 5, 4)
    network(x)
    outputs = model.eval()(x)
    outputs = outputs[0] if isinstance(outputs, tuple) else outputs
    expected = torch.stack([sum(one) / len(one) for one in outputs]) if outputs.ndim == 3 else outputs
    torch.testing.assert_close(read[0], expected)
