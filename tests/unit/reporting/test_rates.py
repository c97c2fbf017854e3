"""Which rates were learned, in shares and in words."""

import pytest
import torch

from metasgd.reporting.rates import moved_share, rates_table, unmoved_in_words


@pytest.mark.parametrize(
    ("rates", "start", "share"),
    [
        ([0.1, 0.1, 0.1005, 0.102], 0.1, 0.25),
        ([0.1, -0.1, 0.0, 0.2], 0.1, 0.75),
        ([0.3, 0.3], 0.1, 1.0),
        ([0.3, 0.3], (0.1, 0.5), 0.0),  # one number was drawn for all, and nobody knows which
        ([0.3, 0.4], (0.1, 0.5), 0.5),
        ([0.3, 0.3], None, 0.0),
    ],
)
def test_the_share_that_moved_by_more_than_a_hundredth(rates, start, share):
    assert moved_share(torch.tensor(rates), start) == share


def test_what_stayed_at_its_start_is_named_with_the_reason():
    moved = {"body.weight": 0.0, "body.bias": 0.0, "head.weight": 0.97}
    assert unmoved_in_words({"head.weight": 0.97}, frozenset()) == ""
    said = unmoved_in_words(moved, frozenset({"head.weight"}))
    assert said == (
        "2 of 3 tensors keep the rates that they started from, as no gradient reaches these layers in this"
        " configuration: body.weight, body.bias"
    )
    # where a gradient reaches one of them, that is not the reason
    said = unmoved_in_words(moved, frozenset({"head.weight", "body.bias"}))
    assert said == "2 of 3 tensors keep the rates that they started from: body.weight, body.bias"
    assert unmoved_in_words(moved, None) == said


def test_the_median_of_an_even_number_lies_between_the_middle_two():
    table = rates_table([{"bias": torch.tensor([1.0, 8.0, 2.0, 4.0], requires_grad=True)}], ["bias"])
    cells = {column.header: [*column.cells] for column in table.columns}
    assert cells["median"] == ["3"]
    assert (cells["least"], cells["greatest"]) == (["1"], ["8"])
