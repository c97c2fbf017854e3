"""The weights that an optimizer evaluates, where they are not those that it trains, as with schedule-free ones."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metasgd.training.rehearsal import training_modes

STATISTICS_BATCHES = 8
"""Training batches from which BatchNorm's running statistics are taken anew under other weights."""


@contextmanager
def evaluation_weights(network: nn.Module, optimizer: Optimizer, inputs: Iterable[Tensor]) -> Iterator[None]:
    """Give the network the weights to evaluate, with BatchNorm's statistics under them; afterwards all is as before.

    Args:
        network: in training.
        optimizer: of its parameters; one without ``train()`` and ``eval()`` evaluates the weights that it trains.
        inputs: of training batches, of which the first few are used.
    """
    modes = training_modes(optimizer)
    if not modes:
        yield
        return
    to_train, to_evaluate = modes
    held = {name: value.clone() for name, value in network.state_dict().items()}
    to_evaluate()
    _renew_statistics(network, inputs)
    yield
    to_train()
    network.load_state_dict(held)  # train() undoes eval() up to rounding only


@torch.no_grad()
def _renew_statistics(network: nn.Module, inputs: Iterable[Tensor]) -> None:
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
    for x in islice(inputs, STATISTICS_BATCHES):
        network(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
