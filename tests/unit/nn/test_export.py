"""The plain network answers as the adapted one does, with torch's own modules alone."""

import io

import onnxruntime
import pytest
import torch
from torch import nn
from torch.func import functional_call

from metasgd.errors import UserError
from metasgd.nn.export import as_onnx, as_program, exported, freeze_statistics
from metasgd.nn.networks import BatchNorm2d, ClassAgnosticHead, Conv4, statistics_from_first


class Foreign(nn.Module):
    """A network of torch's modules, normalising by the batch, with a class-agnostic head inside a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16, 8),
            nn.BatchNorm1d(8, track_running_stats=False),
            nn.Tanh(),
            nn.Dropout(0.5),
            ClassAgnosticHead(8),
        )

    def forward(self, x):
        return self.layers(x)


def shaken(network: nn.Module) -> nn.Module:
    """With weights that are all different, as no start has them."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(std=0.3)
    return network


def adapted(network: nn.Module, n_way: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        n: torch.randn(n_way, *p.shape[1:])
        if n.endswith(("head.weight", "head.bias", "5.weight", "5.bias"))
        else p + 0.1
        for n, p in network.named_parameters()
    }


@pytest.fixture(params=["stride", "pool", "normalised", "foreign"])
def network(request):
    if request.param == "foreign":
        return shaken(Foreign()).eval()
    if request.param == "normalised":
        return shaken(Conv4(width=4, image_size=16, features="normalised")).eval()
    return shaken(Conv4(width=4, image_size=16, downsample=request.param)).eval()


def examples(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def inputs_of(network: nn.Module, n: int, seed: int = 0) -> torch.Tensor:
    x = examples(n, seed)
    return x[:, :, :4, :4] if isinstance(network, Foreign) else x


@torch.no_grad()
def test_it_normalises_by_the_support_set_as_the_inductive_protocol_does(network):
    params = adapted(network, 3)
    support, query = inputs_of(network, 7), inputs_of(network, 4, seed=1)
    plain = freeze_statistics(network, params, support, n_way=3)
    # the support set itself, by the batch's statistics
    assert torch.allclose(plain(support), functional_call(network, params, (support,)), atol=1e-5)
    if not isinstance(network, Foreign):
        with statistics_from_first(network, 7):
            both = functional_call(network, params, (torch.cat([support, query]),))
        assert torch.allclose(plain(query), both[7:], atol=1e-5)
    # no example sees another
    alone = torch.cat([plain(query[i : i + 1]) for i in range(4)])
    assert torch.allclose(plain(query), alone, atol=1e-5)


def test_nothing_of_ours_is_in_it(network):
    plain = exported(network, 3)
    assert not [m for m in plain.modules() if isinstance(m, ClassAgnosticHead | BatchNorm2d)]
    assert not plain.training
    assert not [p for p in plain.parameters() if p.requires_grad]
    assert {n for n, _ in plain.named_parameters()} == {n for n, _ in network.named_parameters()}
    assert any(isinstance(m, ClassAgnosticHead) for m in network.modules())  # which is left as it was


def hand_written(n_way: int) -> nn.Module:
    """Conv4 as any textbook has it."""
    blocks = []
    for channels in (1, 4, 4, 4):
        blocks.append(nn.Sequential(nn.Conv2d(channels, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU()))
    return nn.ModuleDict({"body": nn.Sequential(*blocks, nn.Flatten()), "head": nn.Linear(4, n_way)}).eval()


@torch.no_grad()
def test_its_state_dict_loads_into_a_network_written_without_us():
    network = shaken(Conv4(width=4, image_size=16)).eval()
    plain = freeze_statistics(network, adapted(network, 3), examples(7), n_way=3)
    other = hand_written(3)
    other.load_state_dict(plain.state_dict())
    x = examples(5, seed=2)
    assert torch.equal(other["head"](other["body"](x)), plain(x))


@torch.no_grad()
def test_its_exports_answer_the_same_for_any_number_of_examples(network):
    plain = freeze_statistics(network, adapted(network, 3), inputs_of(network, 7), n_way=3)
    example, metadata = inputs_of(network, 2), {"classes": '["ß", "b", "c"]'}
    session = onnxruntime.InferenceSession(as_onnx(plain, example, metadata))
    assert session.get_modelmeta().custom_metadata_map == metadata
    found = {"classes": ""}
    program = torch.export.load(io.BytesIO(as_program(plain, example, metadata)), extra_files=found).module()
    assert found == metadata
    for n in (1, 9):
        x = inputs_of(network, n, seed=2)
        assert torch.allclose(torch.from_numpy(session.run(["logits"], {"x": x.numpy()})[0]), plain(x), atol=1e-4)
        assert torch.allclose(program(x), plain(x), atol=1e-5)


def test_a_layer_that_normalises_twice_has_no_constants():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = BatchNorm2d(1)

        def forward(self, x):
            return self.norm(self.norm(x).relu())

    network = Twice()
    with pytest.raises(UserError, match="network has norm, which normalises twice"):
        freeze_statistics(network, dict(network.named_parameters()), examples(4), n_way=2)
    norm = BatchNorm2d(1)
    network = nn.Sequential(norm, nn.ReLU(), norm)
    with pytest.raises(UserError, match="network has 0, which normalises twice"):
        freeze_statistics(network, dict(network.named_parameters()), examples(4), n_way=2)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("metasgd.nn.export.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UserError, match="needs onnxscript, not installed here: pip install onnxscript"):
        as_onnx(nn.Linear(1, 1), torch.zeros(2, 1), {})


class Scaled(nn.BatchNorm2d):
    """A normalisation of somebody's own, with arguments and a calculation of its own."""

    def __init__(self, channels: int, gain: float) -> None:
        super().__init__(channels, track_running_stats=False)
        self.gain = gain

    def forward(self, x):
        return self.gain * super().forward(x).sigmoid()


def test_a_normalisation_of_another_class_stays_what_it_is():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), Scaled(4, 3.0), nn.Flatten(), nn.Linear(144, 3)).eval()
    x = torch.rand(6, 1, 8, 8)
    plain = freeze_statistics(network, dict(network.named_parameters()), x, 3)
    torch.testing.assert_close(plain(x), network(x))
    assert plain[1].running_mean.any()
    assert not torch.allclose(network(x[:2])[0], plain(x[:2])[0])  # by the batch, and by constants


class OfMore(nn.Module):
    """Returns its features beside the logits, and before them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.body(x).tanh()
        return {"features": h, "logits": self.head(h)}


def test_of_several_outputs_the_logits_are_exported():
    torch.manual_seed(0)
    network, x = OfMore().eval(), torch.rand(2, 4)
    expected = network(x)["logits"].detach()
    session = onnxruntime.InferenceSession(as_onnx(network, x, {}))
    assert [(one.name, one.shape[1]) for one in session.get_outputs()] == [("logits", 3)]
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), expected)
    program = torch.export.load(io.BytesIO(as_program(network, x, {}))).module()
    torch.testing.assert_close(program(x), expected)
