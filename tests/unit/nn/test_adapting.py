import pytest
from torch import nn

from metasgd.errors import UserError
from metasgd.nn import MLP, Backbone, Conv4
from metasgd.nn.adapting import adapted_names


@pytest.fixture(scope="module")
def resnet():
    return Backbone("resnet18", image_size=32)


def under(network: nn.Module, *prefixes: str) -> set[str]:
    scales = {"head.log_scale", "head.log_temperature"}
    return {n for n, _ in network.named_parameters() if n.startswith(prefixes)} - scales


def test_the_last_blocks(resnet):
    assert adapted_names(resnet, "last:1") == {"head.weight", "head.bias"}
    assert adapted_names(resnet, "last:2") == under(resnet, "head.", "body.layer4.1.")
    assert adapted_names(resnet, "last:4") == under(resnet, "head.", "body.layer4.", "body.layer3.1.")
    assert adapted_names(resnet, "last:99") == adapted_names(resnet, "all")
    assert adapted_names(Conv4(width=2), "last:2") == {
        f"body.3.{i}.{n}" for i in (0, 1) for n in ("weight", "bias")
    } | {
        "head.weight",
        "head.bias",
    }


def test_a_norm_behind_the_last_block_belongs_to_it():
    vit = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2, nn.LayerNorm(4))
    network = Backbone(vit, image_size=[3, 4])
    assert adapted_names(network, "last:2") == under(network, "head.", "body.layers.1.", "body.norm.")


def test_norms_and_biases_wherever_they_are(resnet):
    norms = adapted_names(resnet, "norms")
    assert norms == {n for n in under(resnet, "body.") if ".bn" in n or ".downsample.1." in n}
    vit = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1)
    assert adapted_names(vit, "norms") == {f"layers.0.norm{i}.{n}" for i in (1, 2) for n in ("weight", "bias")}
    assert {"layers.0.self_attn.in_proj_bias", "layers.0.linear1.bias"} < adapted_names(vit, "biases")
    assert adapted_names(nn.GRU(2, 3), "biases") == {"bias_ih_l0", "bias_hh_l0"}
    assert adapted_names(resnet, ["norms", "head"]) == norms | {"head.weight", "head.bias"}


@pytest.mark.parametrize("adapts", ["last:0", "norms", "last", "biases"])
def test_what_fits_nothing_is_refused(adapts):
    network = MLP(1, [4], 1)
    for p in (network.body[1].bias, network.head.bias):
        p.requires_grad_(False)
    with pytest.raises(UserError, match=rf"adapts has '{adapts}', which fits no parameter of MLP.*last:K, norms"):
        adapted_names(network, adapts)


def test_a_layer_norm_over_several_axes_is_a_normalisation():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LayerNorm((4, 6, 6)), nn.Flatten(), nn.Linear(144, 3))
    assert adapted_names(network, "norms") == {"1.weight", "1.bias"}
