import pytest
import torch

from metasgd.in_place import step_in_place

SHAPES = ((3, 4), (5,), ())
ONE = torch.tensor(0.3, dtype=torch.float64)
FIGURES = {
    "one number": [0.3] * 3,
    "one tensor": [ONE] * 3,
    "numbers": [0.3, -0.2, 0.5],
    "tensors": [torch.tensor(v, dtype=torch.float64) for v in (0.3, -0.2, 0.5)],
}
SHAPED = {"of θ's shape": [torch.linspace(-1, 1, 12).double().reshape(3, 4), torch.full((5,), 0.2).double(), ONE]}


def tensors(seed):
    stream = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=stream, dtype=torch.float64) for shape in SHAPES]


@pytest.mark.parametrize("momenta", [None, *FIGURES])
@pytest.mark.parametrize("rates", [*FIGURES, *SHAPED])
def test_a_step_is_its_equation(rates, momenta):
    theta, g, m = (tensors(seed) for seed in range(3))
    eta, mu = (FIGURES | SHAPED)[rates], FIGURES.get(momenta)
    moved = [torch.clone(t) for t in theta]
    kept = None if mu is None else [torch.clone(t) for t in m]
    step_in_place(moved, g, kept, eta, mu, lr=0.7)
    for i in range(3):
        expected = g[i] if mu is None else mu[i] * m[i] + g[i]
        torch.testing.assert_close(moved[i], theta[i] - 0.7 * eta[i] * expected, rtol=0, atol=1e-14)
        if kept is not None:
            torch.testing.assert_close(kept[i], expected, rtol=0, atol=1e-14)


def test_a_momentum_that_is_zero_forgets():
    theta, g, m = (tensors(seed) for seed in range(3))
    step_in_place(theta, g, m, [0.1] * 3, [0.0] * 3, lr=1.0)
    assert all(torch.equal(a, b) for a, b in zip(m, g, strict=True))
