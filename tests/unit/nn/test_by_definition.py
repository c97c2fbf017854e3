import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metasgd.nn.calling import call

ALLOWED = torch.tensor([[True, False, True], [False, False, False]])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": ALLOWED},
        {"attn_mask": torch.randn(2, 2, 3, dtype=torch.float64)},
        {"attn_mask": torch.zeros(2, 3, dtype=torch.float64).masked_fill(~ALLOWED, -torch.inf)},
        {"enable_gqa": True},
    ],
)
def test_attention_by_its_definition_is_torchs(options):
    torch.manual_seed(0)
    q = torch.randn(1, 2, 2, 4, dtype=torch.float64, requires_grad=True)
    heads = 1 if options.get("enable_gqa") else 2
    k, v = (torch.randn(1, heads, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))

    class Attention(nn.Module):
        def forward(self, q):
            return F.scaled_dot_product_attention(q, k, v, **options)

    found, expected = call(Attention(), {}, q), F.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(found, expected)
    assert "ScaledDotProduct" not in type(found.grad_fn).__name__
    ours, theirs = (torch.autograd.grad(y.square().sum(), (q, k, v)) for y in (found, expected))
    torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradgradcheck(lambda q: call(Attention(), {}, q), q)


@pytest.mark.parametrize(("g", "dim"), [((3, 1), 0), ((1, 4), 1), ((), -1)])
def test_weight_normalisation_is_torchs_with_the_right_second_derivative(g, dim):
    torch.manual_seed(0)
    v, g = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4), g))

    class Normed(nn.Module):
        def forward(self, v):
            return torch._weight_norm(v, g, dim)

    torch.testing.assert_close(call(Normed(), {}, v), torch._weight_norm(v, g, dim))
    assert torch.autograd.gradgradcheck(lambda v: call(Normed(), {}, v), v)


@pytest.mark.parametrize("options", [{}, {"padding_idx": 1}, {"padding_idx": -1}, {"scale_grad_by_freq": True}])
def test_an_embedding_is_torchs_and_has_the_same_gradient_under_vmap(options):
    torch.manual_seed(0)
    tables = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    numbers = torch.tensor([[0, 1, 3], [1, 2, 2]])

    class Table(nn.Module):
        def forward(self, table):
            return F.embedding(numbers, table, **options)

    each = [call(Table(), {}, table) for table in tables]
    expected = [F.embedding(numbers, table, **options) for table in tables]
    torch.testing.assert_close(each, expected)
    together = torch.func.vmap(lambda table: call(Table(), {}, table))(tables)
    (theirs,) = torch.autograd.grad(sum(y.pow(3).sum() for y in expected), tables)
    for ours in (torch.stack(each), together):
        torch.testing.assert_close(torch.autograd.grad(ours.pow(3).sum(), tables)[0], theirs)


def test_a_sparse_embedding_has_a_dense_gradient_and_so_a_second_one():
    table = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

    class Table(nn.Module):
        def forward(self, table):
            return F.embedding(torch.tensor([0, 2, 2]), table, sparse=True)

    assert torch.autograd.gradgradcheck(lambda table: call(Table(), {}, table).pow(3), table)
