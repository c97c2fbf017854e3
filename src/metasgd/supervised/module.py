"""A network in supervised training under the Trainer."""

import copy
from collections.abc import Callable, Iterable

import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from metasgd.data.problems import Batch, Examples, Problem
from metasgd.episode import from_pixels
from metasgd.errors import UserError, first_line
from metasgd.meta.objectives import OBJECTIVES, Objective
from metasgd.nn.networks import BatchNorm2d
from metasgd.training.callbacks.evaluation_weights import EvaluationWeights
from metasgd.training.resuming import with_fixed_layout

MakeOptimizer = Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer]


def measures(objective: Objective, outputs: Tensor, y: Tensor) -> Tensor:
    """``(loss, metric)`` of a batch."""
    loss = objective.loss(outputs, y)
    return torch.stack([loss, objective.measure(outputs[None], y[None], loss[None])[0]])


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

    def configure_callbacks(self) -> list[Callback]:
        return [EvaluationWeights()]

    def configure_optimizers(self) -> Optimizer:
        return with_fixed_layout(self.make_optimizer(self.network.named_parameters()))

    def training_step(self, batch: Batch) -> Tensor:
        return self._evaluated(batch, "train")

    def validation_step(self, batch: Batch) -> None:
        self._evaluated(batch, "val")

    def test_step(self, batch: Batch) -> None:
        self._evaluated(batch, "test")

    def _evaluated(self, batch: Batch, split: str) -> Tensor:
        x, y = batch
        dtype = next(self.network.parameters()).dtype
        loss, metric = measures(self.objective, self.network(from_pixels(x, dtype)), y)
        figures = {f"{split}/loss": loss, f"{split}/{self.objective.metric}": metric}
        self.log_dict(figures, batch_size=len(y), prog_bar=True, on_step=split == "train", on_epoch=split != "train")
        return torch.as_tensor(loss)


def validate_network(network: nn.Module, problem: Problem, train: Examples) -> None:
    """Refuse a network that does not take the problem's inputs, or answers something else than it asks for.

    Raises:
        UserError: names what the network was given and what it made of it.
    """
    n_outputs = problem.n_outputs(train)
    kind = type(network).__name__
    first = next(network.parameters(), None)
    if first is None:
        raise UserError(f"network: {kind} has no parameters, so there is nothing to train: use another")
    x = from_pixels(train.x[:2], first.dtype)
    if any(isinstance(module, BatchNorm2d) for module in network.modules()):
        raise UserError(
            f"network: {type(network).__name__} normalises every batch by itself, as few-shot tasks want it; an image's"
            " answer must not depend on its neighbours here. Set network.init_args.running_statistics to true"
        )
    was_training = network.training
    try:
        outputs = [_outputs(network.eval(), x)]
        # some answer otherwise in training, as with auxiliary outputs; a copy keeps its statistics to itself
        outputs.append(_outputs(copy.deepcopy(network).train(), x))
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        raise UserError(
            f"network: {kind} does not take the inputs of shape {tuple(x.shape[1:])}"
            f" ({first_line(error)}). Set its options (such as in_channels and"
            " image_size, or in_features) to fit, or use another"
        ) from error
    finally:
        network.train(was_training)
    for made in outputs:
        if not isinstance(made, Tensor):
            raise UserError(
                f"network: {kind} answers a {type(made).__name__}, and one tensor is needed: set its options so that it"
                " has no auxiliary outputs, or wrap it in a module that returns the one"
            )
        if made.shape[1:] != (n_outputs,):
            raise UserError(
                f"network: {kind} answers values of shape {tuple(made.shape[1:])} for each example, but the problem"
                f" asks for {n_outputs}: set its number of outputs (of Conv4 n_way, with head linear; of an MLP"
                f" out_features; of torchvision's num_classes) to {n_outputs}"
            )


@torch.no_grad()
def _outputs(network: nn.Module, x: Tensor) -> object:
    with torch.random.fork_rng(devices=[]):
        made: object = network(x)
    return made
