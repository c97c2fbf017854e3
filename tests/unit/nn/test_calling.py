import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from metasgd.errors import UserError
from metasgd.nn.calling import call, exact_derivatives, logits_of, network_copy, slots_of


class Two(nn.Module):
    """One layer under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = self.first

    def forward(self, x):
        return self.again(self.first(x).tanh())


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Linear(3, 3), nn.Linear(3, 3)
        self.again.weight = self.first.weight

    def forward(self, x):
        return self.again(self.first(x).tanh())


@pytest.mark.parametrize("kind", [Two, Tied])
def test_a_network_with_tied_weights_is_as_before_after_a_call_with_others(kind):
    network = kind().double()
    before = {n: p.detach().clone() for n, p in network.state_dict().items()}
    params = {n: torch.randn_like(p) for n, p in network.named_parameters()}
    x = torch.randn(4, 3, dtype=torch.float64)
    w, b = params["first.weight"], params["first.bias"]
    expected = (x @ w.T + b).tanh() @ w.T + params.get("again.bias", b)
    torch.testing.assert_close(call(network, params, x), expected)
    assert all(torch.equal(p, before[n]) for n, p in network.state_dict().items())
    assert all(p.is_leaf and p.requires_grad for p in network.parameters())


def test_a_network_is_as_before_where_its_forward_fails():
    network = Two()
    before = network.first.weight
    with pytest.raises(RuntimeError):
        call(network, {n: torch.zeros_like(p) for n, p in network.named_parameters()}, torch.randn(4, 2))
    assert network.first.weight is before


def test_where_parameters_stand():
    assert slots_of(Two()) == {"first.weight": ("first.weight",), "first.bias": ("first.bias",)}
    assert slots_of(Tied())["first.weight"] == ("first.weight", "again.weight")


class WithLogits:
    logits = torch.ones(2)
    hidden = torch.zeros(2)


@pytest.mark.parametrize(
    "outputs", [torch.ones(2), {"logits": torch.ones(2), "loss": None}, (torch.ones(2),), WithLogits()]
)
def test_logits_are_taken_where_they_can_be_known(outputs):
    assert torch.equal(logits_of(outputs, nn.Identity()), torch.ones(2))


@pytest.mark.parametrize(
    "outputs", [(torch.ones(2), torch.zeros(2)), {"a": torch.ones(2), "b": torch.ones(2)}, None, 3.0]
)
def test_other_outputs_are_refused(outputs):
    with pytest.raises(UserError, match="Identity returns a .* return the logits alone"):
        logits_of(outputs, nn.Identity())


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("share", [True, False])
def test_a_copy_has_attributes_of_its_own_even_if_they_have_a_graph(share):
    network = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(2, 2)), nn.BatchNorm1d(2))
    x = torch.randn(3, 2)
    network(x)
    copied = network_copy(network, share=share)
    assert (copied[0].weight_g is network[0].weight_g) == share
    assert (copied[1].running_mean is network[1].running_mean) == share
    assert copied[0] is not network[0]
    torch.testing.assert_close(copied(x), network(x))


def test_the_fast_path_stays_shut_until_the_last_thread_is_done():
    network, first_in, second_out = nn.Identity(), threading.Event(), threading.Event()
    seen = []

    def first():
        with exact_derivatives(network):
            first_in.set()
            second_out.wait(timeout=60)
            seen.append(torch.backends.mha.get_fastpath_enabled())

    thread = threading.Thread(target=first)
    thread.start()
    first_in.wait(timeout=60)
    with exact_derivatives(network):
        seen.append(torch.backends.mha.get_fastpath_enabled())
    second_out.set()
    thread.join()
    assert seen == [False, False]
    assert torch.backends.mha.get_fastpath_enabled()


def test_another_thread_than_the_first_can_be_the_last():
    with ThreadPoolExecutor(1) as pool:
        first, last = exact_derivatives(nn.Identity()), exact_derivatives(nn.Identity())
        pool.submit(first.__enter__).result()
        last.__enter__()
        pool.submit(first.__exit__, None, None, None).result()
        assert not torch.backends.cuda.flash_sdp_enabled()
        last.__exit__(None, None, None)
    assert torch.backends.cuda.flash_sdp_enabled()


def test_recurrence_goes_without_cudnn_which_has_no_second_derivative():
    with exact_derivatives(nn.LSTM(1, 1)):
        assert not torch.backends.cudnn.enabled
    with exact_derivatives(nn.Linear(1, 1)):
        assert torch.backends.cudnn.enabled
