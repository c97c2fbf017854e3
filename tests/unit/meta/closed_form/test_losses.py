"""The losses in closed form beside torch's own."""

import torch
import torch.nn.functional as F

from metasgd.meta.closed_form.losses import CrossEntropy
from metasgd.meta.objectives import OBJECTIVES


def test_a_label_of_minus_100_counts_for_nothing():
    generator = torch.Generator().manual_seed(0)
    outputs, outputs_dot = (torch.randn(2, 5, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    y = torch.tensor([[0, -100, 2, 1, -100], [1, 1, 0, 2, 2]])

    def gradient(outputs):
        return torch.func.grad(lambda o: sum(F.cross_entropy(a, b) for a, b in zip(o, y, strict=True)))(outputs)

    loss, grads, saved = CrossEntropy().forward(outputs, y)
    expected = torch.stack([F.cross_entropy(a, b) for a, b in zip(outputs, y, strict=True)])
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(grads, gradient(outputs), rtol=0, atol=1e-14)
    tangent = torch.func.grad(lambda o: (gradient(o) * outputs_dot).sum())(outputs)  # a Hessian is symmetric
    torch.testing.assert_close(CrossEntropy().tangent(saved, outputs_dot), tangent, rtol=0, atol=1e-14)


def test_an_example_that_is_left_out_is_neither_right_nor_wrong():
    outputs = torch.eye(3)[None]
    found = OBJECTIVES["cross_entropy"].measure(outputs, torch.tensor([[0, -100, 1]]), losses=torch.zeros(1))
    assert found.tolist() == [0.5]
