import pytest
from torchvision import models

from metasgd.meta.reached import rates_reached
from metasgd.nn import MLP, Backbone, Conv4
from metasgd.rules.blocks import block_of


def blocks(network) -> list[str]:
    return list(dict.fromkeys(block_of(n) for n, _ in network.named_parameters()))


def test_blocks_are_the_parts_that_a_network_repeats():
    assert blocks(Conv4()) == ["body.0", "body.1", "body.2", "body.3", "head"]
    assert blocks(MLP()) == ["body.1", "body.3", "head"]
    resnet = [f"body.layer{i}.{j}" for i in range(1, 5) for j in (0, 1)]
    assert blocks(Backbone("resnet18", image_size=32)) == ["body.conv1", "body.bn1", *resnet, "head"]
    assert blocks(models.resnet18())[0] == "conv1"
    vit = models.VisionTransformer(16, 8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16)
    layers = [f"encoder.layers.encoder_layer_{i}" for i in (0, 1)]
    assert [b for b in blocks(vit) if b.startswith("encoder.layers")] == layers


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "convnext_tiny", "swin_t", "densenet121", "efficientnet_b0"])
def test_a_backbone_has_tens_of_blocks(name):
    found = blocks(models.get_model(name))
    assert 8 <= len(found) < 100


def test_a_rate_is_reached_as_the_block_or_the_whole_is():
    assert rates_reached(frozenset({"body.1.0.weight"})) == {"body.1.0.weight", "body.1", "all parameters"}
    assert rates_reached(frozenset()) == frozenset()
