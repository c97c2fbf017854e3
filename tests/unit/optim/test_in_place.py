import pytest
import torch

from metasgd.optim.in_place import step_in_place

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
    momenta = None if mu is None else [torch.clone(t) for t in m]
    step_in_place(moved, g, momenta, eta, mu, lr=0.7)
    for i in range(3):
        expected = g[i] if mu is None else mu[i] * m[i] + g[i]
        torch.testing.assert_close(moved[i], theta[i] - 0.7 * eta[i] * expected, rtol=0, atol=1e-14)
        if momenta is not None:
            torch.testing.assert_close(momenta[i], expected, rtol=0, atol=1e-14)


def test_a_momentum_that_is_zero_forgets():
    theta, g, m = (tensors(seed) for seed in range(3))
    step_in_place(theta, g, m, [0.1] * 3, [0.0] * 3, lr=1.0)
    assert all(torch.equal(a, b) for a, b in zip(m, g, strict=True))


LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "with gaps": lambda t: torch.cat([t, t], dim=1)[:, : t.shape[1]],
}


@pytest.mark.parametrize("of_m", LAYOUTS)
@pytest.mark.parametrize("of_g", LAYOUTS)
@pytest.mark.parametrize("of_theta", LAYOUTS)
def test_tensors_may_lie_in_memory_as_they_like(of_theta, of_g, of_m):
    """A fused step of torch's takes them for alike: it would add what belongs to other elements."""
    theta, g, m = torch.randn(3, 2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    laid = LAYOUTS[of_theta](theta.clone())
    momenta = LAYOUTS[of_m](m.clone())
    step_in_place([laid], [LAYOUTS[of_g](g)], [momenta], [0.3], [0.9], lr=1.0)
    torch.testing.assert_close(momenta, 0.9 * m + g, rtol=0, atol=1e-14)
    torch.testing.assert_close(laid, theta - 0.3 * (0.9 * m + g), rtol=0, atol=1e-14)
