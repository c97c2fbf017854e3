import pytest
import torch

from metasgd.errors import UserError
from metasgd.rules.gradient_descent import PerParameter, PerParameterMomentum, Scalar
from metasgd.rules.initial_values import draw, logit


def test_a_start_is_the_number_itself_or_one_from_the_range():
    assert draw(-0.25) == -0.25
    torch.manual_seed(0)
    drawn = [draw((0.5, 0.75)) for _ in range(200)]
    assert 0.5 <= min(drawn) < 0.51
    assert 0.74 < max(drawn) <= 0.75


def test_logit_undoes_the_sigmoid():
    values = torch.tensor([0.01, 0.5, 0.9], dtype=torch.float64)
    assert [logit(float(v)) for v in values] == pytest.approx(values.logit().tolist())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: draw((0.2, 0.1)), r"init is \(0.2, 0.1\)"),
        (lambda: draw(float("nan")), "init is nan"),
        (lambda: draw((0.0, float("inf"))), "init is"),
        (lambda: PerParameter(0.1, bounds=(0.2, 0.3)), "bounds is"),
        (lambda: PerParameter(0.1, bounds=(0.3, 0.2)), "bounds is"),
        (lambda: Scalar(momentum=1.0), "momentum is 1.0"),
        (lambda: PerParameterMomentum(momentum=0.0), "momentum is 0.0"),
    ],
)
def test_unusable_options_are_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()
