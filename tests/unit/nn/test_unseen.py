import pytest
import torch
import torch.nn.functional as F

from metasgd.nn.unseen import Unseen, unseen


def nothing():
    return unseen(torch.full((2, 3), torch.nan))


@pytest.mark.parametrize(
    "compute",
    [
        lambda t: (t - 1) / 2,
        F.relu,
        lambda t: F.layer_norm(t, (3,)),
        lambda t: t.reshape(3, 2).softmax(dim=0),
        lambda t: torch.cat([t, torch.zeros(2, 1)], dim=1),
        lambda t: t @ torch.ones(3, 4),
        lambda t: t.mul_(2),
        lambda t: t.unbind(dim=1)[0],
    ],
)
def test_what_stays_nan_may_be_computed(compute):
    assert isinstance(compute(nothing()), Unseen)


@pytest.mark.parametrize(
    "compute",
    [
        lambda t: t != 0,
        lambda t: t.isnan(),
        lambda t: t.argmax(dim=1),
        lambda t: t.max(dim=1),
        lambda t: t.long(),
        lambda t: bool(t.sum()),
        lambda t: t.sum().item(),
        torch.nan_to_num,
        lambda t: t**0,
        lambda t: torch.nansum(t),
        lambda t: torch.equal(t, t),
        lambda t: t.tolist(),
    ],
)
def test_what_would_look_like_a_result_is_refused(compute):
    with pytest.raises(RuntimeError, match="reads what is not computed"):
        compute(nothing())


def test_what_is_known_of_it_is_plain():
    t = nothing()
    assert (t.shape, t.dtype, t.size(0), len(t), t.ndim) == ((2, 3), torch.float32, 2, 2, 2)
    assert type(t.new_zeros(4)) is torch.Tensor
    assert type(torch.cat([t, torch.zeros(2, 1)], dim=1)[:, 3:]) is torch.Tensor
    assert all(isinstance(part, Unseen) for part in unseen((torch.ones(1), torch.ones(1))))


def filled(t):
    plain = t.new_zeros(2, 3)
    plain[:] = t
    return plain


@pytest.mark.parametrize(
    "write", [filled, lambda t: t.new_zeros(2, 3).copy_(t), lambda t: torch.mul(t, 1.0, out=torch.zeros(2, 3))]
)
def test_it_cannot_be_written_where_nobody_would_see_it(write):
    with pytest.raises(RuntimeError, match="writes what is not computed into another tensor"):
        write(nothing())
