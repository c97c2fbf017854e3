"""Backbones with stored statistics, and with attention: the meta-gradient against one graph of it all, in float64."""

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, largest_difference, tasks_of
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.resnet import BasicBlock, ResNet

from metasgd.meta.full_unroll import FullUnroll
from metasgd.nn import Backbone
from metasgd.rules.base import key_of
from metasgd.rules.blocks import block_of
from metasgd.rules.gradient_descent import PerBlock

EXACT = 1e-9
SIZE = 8


def narrow_resnet() -> nn.Module:
    """torchvision's, with one block of 4 filters in the place of its four stages."""
    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)
    network.conv1, network.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
    network.layer1 = nn.Sequential(BasicBlock(4, 4))
    network.layer2 = network.layer3 = network.layer4 = nn.Sequential()
    network.fc = nn.Linear(4, 3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network


def small_vit() -> nn.Module:
    return VisionTransformer(SIZE, 4, num_layers=1, num_heads=2, hidden_dim=4, mlp_dim=6, dropout=0.2)


def resnet_by_hand(p, buffers, x):
    def norm(x, name):
        mean, var = (buffers[f"body.{name}.running_{s}"][:, None, None] for s in ("mean", "var"))
        weight, bias = (p[f"body.{name}.{s}"][:, None, None] for s in ("weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def conv(x, name):
        return F.conv2d(x, p[f"body.{name}.weight"], padding=1)

    x = F.max_pool2d(norm(conv(x, "conv1"), "bn1").clamp_min(0), 3, 2, 1)
    inner = norm(conv(x, "layer1.0.conv1"), "layer1.0.bn1").clamp_min(0)
    return (norm(conv(inner, "layer1.0.conv2"), "layer1.0.bn2") + x).clamp_min(0).mean(dim=(2, 3))


def vit_by_hand(p, buffers, x):
    body = {n.removeprefix("body."): t for n, t in p.items()}
    layer = {n.removeprefix("encoder.layers.encoder_layer_0."): t for n, t in body.items()}

    def norm(h, weight, bias):
        centred = h - h.mean(dim=-1, keepdim=True)
        return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * weight + bias

    x = F.conv2d(x, body["conv_proj.weight"], body["conv_proj.bias"], stride=4).flatten(2).mT
    h = torch.cat([body["class_token"].expand(len(x), 1, 4), x], dim=1) + body["encoder.pos_embedding"]
    n = norm(h, layer["ln_1.weight"], layer["ln_1.bias"])
    qkv = n @ layer["self_attention.in_proj_weight"].T + layer["self_attention.in_proj_bias"]
    q, k, v = (t.unflatten(-1, (2, 2)).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
    seen = ((q @ k.mT / 2**0.5).softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    h = h + seen @ layer["self_attention.out_proj.weight"].T + layer["self_attention.out_proj.bias"]
    n = norm(h, layer["ln_2.weight"], layer["ln_2.bias"])
    m = n @ layer["mlp.0.weight"].T + layer["mlp.0.bias"]
    m = m * (1 + torch.erf(m / 2**0.5)) / 2
    h = h + m @ layer["mlp.3.weight"].T + layer["mlp.3.bias"]
    return norm(h, body["encoder.ln.weight"], body["encoder.ln.bias"])[:, 0]


NETWORKS = {"stored statistics": (narrow_resnet, resnet_by_hand), "attention": (small_vit, vit_by_hand)}


def by_hand(config, tasks, features, steps):
    """The gradient through prototypes, ``steps`` inner steps by blocks' rates, and a temperature, in one graph."""
    theta, phi = dict(config.network.named_parameters()), dict(config.rule.named_parameters())
    buffers = dict(config.network.named_buffers())
    mean, std = (buffers[n].double()[:, None, None] for n in ("mean", "std"))

    def read(p, x):
        h = features(p, buffers, (x - mean) / std)
        return h / (h.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()

    total = torch.zeros((), dtype=torch.float64)
    for b in range(tasks.n_tasks):
        x, y, qx, qy = (field[b] for field in tasks[:4])
        h, scale = read(theta, x), theta["head.log_scale"].exp()
        rows = torch.stack([scale * h[y == c].mean(dim=0) for c in range(tasks.n_way)])
        shifts = -rows.square().sum(dim=1) / (2 * scale)
        # weights of the task's own: an inner gradient takes the rows as they are, and not for functions of the weights
        p = {**{n: t.clone() for n, t in theta.items()}, "head.weight": rows.clone(), "head.bias": shifts}
        names = sorted(config.adapted)
        for _ in range(steps):
            loss = F.cross_entropy(read(p, x) @ p["head.weight"].T + p["head.bias"], y)
            grads = torch.autograd.grad(loss, [p[n] for n in names], create_graph=True)
            p |= {n: p[n] - phi[f"eta.{key_of(block_of(n))}"] * g for n, g in zip(names, grads, strict=True)}
        logits = p["head.log_temperature"].exp() * (read(p, qx) @ p["head.weight"].T + p["head.bias"])
        total = total + F.cross_entropy(logits, qy)
    inputs = [*theta.values(), *phi.values()]
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    whole = [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)]
    return dict(zip(theta, whole, strict=False)), dict(zip(phi, whole[len(theta) :], strict=True))


@pytest.fixture(params=NETWORKS)
def case(request):
    torch.manual_seed(0)
    make, features = NETWORKS[request.param]
    network = Backbone(make(), image_size=SIZE, batch_norm="frozen", mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4])
    adapted = {n for n, _ in network.named_parameters() if "log_" not in n}
    config = config_of(network.eval(), PerBlock(0.05), 2, adapted=adapted)
    return config, tasks_of(2, 3, 2, 2, (3, SIZE, SIZE)), features


@pytest.mark.parametrize("engine", ["loop", "threads", "vmap"])
def test_a_backbone_is_exact_in_every_engine(case, engine):
    config, tasks, features = case
    before = {n: b.clone() for n, b in config.network.named_buffers()}
    theta, phi = by_hand(config, tasks, features, 2)
    found = FullUnroll(config.network, engine, recompute=False).meta_gradient(config, tasks, 2, False)
    assert largest_difference(found.theta, theta) < EXACT
    assert largest_difference(found.phi, phi) < EXACT
    assert min(g.abs().max() for g in found.phi.values()) > 1e-6
    assert all(torch.equal(b, before[n]) for n, b in config.network.named_buffers())
