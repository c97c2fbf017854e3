"""One linear map of columns against a convolution and a BatchNorm, and its derivatives against autograd's; float64."""

import torch
import torch.nn.functional as F
from torch.autograd.functional import jvp

from metasgd.meta.closed_form.standardised import Fold, Standardised

NAMES = Standardised("w", "b", "gamma", "beta", (3, 2), (2, 1), (1, 0), (1, 2), 1e-5)


def example():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 2, 9, 8, generator=generator, dtype=torch.float64) + 3
    shapes = {"w": (5, 2, 3, 2), "b": (5,), "gamma": (5,), "beta": (5,)}
    return images, {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}


def by_place(x):
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def folded(p, x):
    """W' by plain operations that autograd can follow."""
    w, c = p["w"].flatten(1), by_place(x)
    return p["gamma"][:, None] * w / ((w @ (c.mT @ c / len(c)) * w).sum(1, keepdim=True) + NAMES.eps).sqrt()


def test_columns_and_weights_give_what_convolution_and_normalisation_give():
    images, p = example()
    plain = F.conv2d(images, p["w"], p["b"], (2, 1), (1, 0), (1, 2))
    expected = F.batch_norm(plain, None, None, p["gamma"], p["beta"], training=True)
    x = NAMES.columns(images)
    found = torch.einsum("xkhw,ok->xohw", x, Fold(NAMES, p, by_place(x)).weights["w"]) + p["beta"][:, None, None]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_derivatives():
    images, p = example()
    x, dot = NAMES.columns(images), {n: torch.randn_like(t) for n, t in p.items()}
    fold = Fold(NAMES, p, by_place(x))
    at, d = (p["w"].flatten(1), p["gamma"]), torch.randn(5, 12, dtype=torch.float64)

    def w_prime(w, gamma):
        return folded({"w": w, "gamma": gamma}, x)

    def pulled(w, gamma):
        out = w_prime(w, gamma)
        return torch.autograd.grad(out, (w, gamma), d + 2 * (out - w_prime(*at)), create_graph=True)

    along = (dot["w"].flatten(1), dot["gamma"])
    moved = jvp(w_prime, at, along)[1]
    torch.testing.assert_close(fold.tangent(dot)["w"], moved)
    expected, expected_dot = jvp(pulled, at, along)
    found = fold.backward({"w": d, "beta": p["beta"]})
    # the gradient in W' moves too, by twice what W' does
    found_dot = fold.tangent_backward(dot, {"w": 2 * moved, "beta": p["beta"]})
    for own, parts in ((found, expected), (found_dot, expected_dot)):
        torch.testing.assert_close(own["w"], parts[0].view_as(p["w"]))
        torch.testing.assert_close(own["gamma"], parts[1])
        assert not own["b"].any()
        assert own["beta"] is p["beta"]


def test_a_direction_that_passes_it_by():
    images, p = example()
    fold = Fold(NAMES, p, by_place(NAMES.columns(images)))
    dot = {"beta": p["beta"]}
    assert fold.tangent(dot) is dot
    moved = {"w": torch.ones(5, 12, dtype=torch.float64)}
    torch.testing.assert_close(fold.tangent_backward(dot, moved)["w"], fold.backward(moved)["w"])


def test_an_empty_picture_is_normalised_by_epsilon_alone():
    p = {**example()[1], "w": torch.ones(5, 2, 3, 2, dtype=torch.float64)}
    x = NAMES.columns(torch.ones(3, 2, 1, 8, dtype=torch.float64).expand(3, 2, 9, 8) * 0)
    assert Fold(NAMES, p, by_place(x)).weights["w"].isfinite().all()
