"""ResNet-12 and wide residual networks: their published sizes, and their outputs written out in plain functions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metasgd.errors import UserError
from metasgd.nn import ResNet12, WideResNet
from metasgd.rules.blocks import block_of


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def shaken(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for p in network.double().parameters():
            p.add_(0.2 * torch.randn_like(p))
    return network


def normalised(x, p, name):
    mean, var = x.mean(dim=(0, 2, 3), keepdim=True), x.var(dim=(0, 2, 3), correction=0, keepdim=True)
    weight, bias = (p[f"{name}.{n}"][:, None, None] for n in ("weight", "bias"))
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def read(x, p):
    h = x.mean(dim=(2, 3))
    h = h / (h.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    return h @ p["head.weight"].T + p["head.bias"]


def resnet12_by_hand(p, x):
    for i in range(4):
        block, y = f"body.{i}.0", x
        for j in range(3):
            y = normalised(F.conv2d(y, p[f"{block}.convs.{j}.weight"], padding=1), p, f"{block}.norms.{j}")
            y = torch.where(y > 0, y, 0.1 * y) if j < 2 else y
        y = y + normalised(F.conv2d(x, p[f"{block}.shortcut.0.weight"]), p, f"{block}.shortcut.1")
        x = F.max_pool2d(torch.where(y > 0, y, 0.1 * y), 2)
    return read(x, p)


def wide_by_hand(p, x):
    x = F.conv2d(x, p["body.0.weight"], padding=1)
    for group in (1, 2, 3):
        for block in (0, 1):
            name, stride = f"body.{group}.{block}", 2 if group > 1 and block == 0 else 1
            h = normalised(x, p, f"{name}.norm1").clamp_min(0)
            y = F.conv2d(h, p[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(normalised(y, p, f"{name}.norm2").clamp_min(0), p[f"{name}.conv2.weight"], padding=1)
            short = p.get(f"{name}.shortcut.weight")
            x = y + (x if short is None else F.conv2d(h, short, stride=stride))
    return read(normalised(x, p, "body.4").clamp_min(0), p)


@pytest.mark.parametrize(
    ("make", "by_hand"),
    [
        (lambda: ResNet12(3, "linear", widths=[3, 4, 5, 6], image_size=16), resnet12_by_hand),
        (lambda: WideResNet(3, "linear", depth=16, width=2, image_size=16), wide_by_hand),
    ],
)
@torch.no_grad()
def test_outputs_are_as_written_out(make, by_hand):
    network = shaken(make())
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(network(x), by_hand(dict(network.named_parameters()), x), rtol=1e-9, atol=1e-9)


def test_sizes_are_the_published_ones():
    with torch.device("meta"):
        assert size(ResNet12().body) == 12_424_320
        assert (
            size(WideResNet(10, "linear", image_size=32)) == 36_479_194
        )  # of CIFAR-10's, in the authors' table 36.5 M


def test_blocks_and_options():
    assert len({block_of(n) for n, _ in ResNet12(widths=[2] * 4).named_parameters()}) == 5
    kinds = {type(m).__name__ for m in ResNet12(widths=[2] * 4, drop_block=0.1, running_statistics=True).modules()}
    assert "DropBlock2d" in kinds
    assert {type(m) for m in ResNet12(widths=[2] * 4, running_statistics=True).modules()} >= {nn.BatchNorm2d}
    assert "DropBlock2d" not in {type(m).__name__ for m in ResNet12(widths=[2] * 4).modules()}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ResNet12(widths=[1, 2]), r"widths is \[1, 2\]: four numbers"),
        (lambda: ResNet12(image_size=8), "image_size is 8: at least 16"),
        (lambda: ResNet12(drop_block=1.0), "drop_block is 1.0: a share"),
        (lambda: WideResNet(depth=20), "depth is 20: 4 more than a multiple of 6"),
    ],
)
def test_mistakes_are_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()
