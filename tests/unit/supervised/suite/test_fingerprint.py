"""What a training of a suite is known by."""

import pytest
import torch

from metasgd.data.problems import Examples
from metasgd.supervised.suite.contenders import all_contenders
from metasgd.supervised.suite.fingerprint import fingerprint
from metasgd.supervised.suite.workloads import SMALL

CONTENDERS = all_contenders({"learned": "scheduled_muon"}, trust=False)


@pytest.mark.parametrize("name", list(CONTENDERS))
def test_every_contender_has_one_that_its_checkpoint_and_its_name_change(name):
    if CONTENDERS[name].missing() is not None:
        pytest.skip(CONTENDERS[name].missing())
    examples = dict.fromkeys(("train", "val", "test"), Examples(torch.zeros(2, 3), torch.zeros(2, 1)))
    found = [fingerprint(CONTENDERS[name], SMALL[0], examples, digest) for digest in (None, None, "0f")]
    assert found[0] == found[1] != found[2]
    assert found[0].startswith(f"{name} on {SMALL[0].name}, ")
