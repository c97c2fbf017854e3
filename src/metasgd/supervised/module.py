"""An ordinary network under the Trainer."""

from collections.abc import Callable, Iterable

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from metasgd.data.problems import Batch, Examples, Problem
from metasgd.errors import UserError
from metasgd.meta.objectives import OBJECTIVES, Objective
from metasgd.nn.networks import BatchNorm2d

MakeOptimizer = Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer]


def as_inputs(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Images arrive as uint8 and become numbers from 0 to 1."""
    return x.to(dtype) / 255 if x.dtype == torch.uint8 else x


def measures(objective: Objective, outputs: Tensor, y: Tensor) -> Tensor:
    """``(loss, metric)`` of a batch."""
    return torch.stack([objective.loss(outputs, y), objective.measure(outputs[None], y[None])[0]])


class SupervisedModule(LightningModule):
    """Trains a network on batches ``(x, y)``; any optimizer steps it, a learned one too.

    Args:
        network: any module whose ``forward`` takes a batch.
        loss: ``cross_entropy`` or ``mse``.
        make_optimizer: of the network's named parameters.
    """

    def __init__(self, network: nn.Module, loss: str, make_optimizer: MakeOptimizer) -> None:
        super().__init__()
        self.network, self.make_optimizer = network, make_optimizer
        self.objective = OBJECTIVES[loss]  # type: ignore[index] # a problem's own

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.network.named_parameters())

    def training_step(self, batch: Batch) -> Tensor:
        return self._judged(batch, "train")

    def validation_step(self, batch: Batch) -> None:
        self._judged(batch, "val")

    def test_step(self, batch: Batch) -> None:
        self._judged(batch, "test")

    def _judged(self, batch: Batch, split: str) -> Tensor:
        x, y = batch
        dtype = next(self.network.parameters()).dtype
        loss, metric = measures(self.objective, self.network(as_inputs(x, dtype)), y)
        figures = {f"{split}/loss": loss, f"{split}/{self.objective.metric}": metric}
        self.log_dict(figures, batch_size=len(y), prog_bar=True, on_step=split == "train", on_epoch=split != "train")
        return torch.as_tensor(loss)


def validate_network(network: nn.Module, problem: Problem, train: Examples) -> None:
    """Refuse a network that does not take the problem's inputs, or answers something else than it asks for.

    Raises:
        UserError: names what the network was given and what it made of it.
    """
    n_outputs = problem.n_outputs(train)
    x = as_inputs(train.x[:2], next(network.parameters()).dtype)
    if any(isinstance(module, BatchNorm2d) for module in network.modules()):
        raise UserError(
            f"network: {type(network).__name__} normalises every batch by itself, as few-shot tasks want it; an image's"
            " answer must not depend on its neighbours here. Set network.init_args.running_statistics to true"
        )
    was_training = network.training
    try:
        with torch.no_grad():
            outputs: Tensor = network.eval()(x)
    except RuntimeError as error:
        raise UserError(
            f"network: {type(network).__name__} does not take the inputs of shape {tuple(x.shape[1:])}"
            f" ({str(error).splitlines()[0]}). Set its options (in_channels and image_size, or in_features) to fit"
        ) from error
    finally:
        network.train(was_training)
    if outputs.shape[1:] != (n_outputs,):
        raise UserError(
            f"network: {type(network).__name__} answers values of shape {tuple(outputs.shape[1:])} for each example,"
            f" but the problem asks for {n_outputs}: set its number of outputs (of Conv4 n_way, with head linear; of an"
            f" MLP out_features) to {n_outputs}"
        )
