"""Several meta-trained learners that learn the same task and predict together."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from metasgd.errors import UserError
from metasgd.learner.adapted_learner import AdaptedLearner
from metasgd.learner.meta_learner import MetaLearner
from metasgd.learner.predictor import Labels, Predictor
from metasgd.meta.ensemble import mean_prediction
from metasgd.nn.calling import logits_of


@dataclass(frozen=True)
class EnsembleLearner:
    """Learners whose predictions are averaged; what ``metasgd.load`` makes of several checkpoints.

    Attributes:
        members: the learners, all of classes or all of a regression.

    Raises:
        UserError: there is none, or they are of different objectives.
    """

    members: tuple[MetaLearner, ...]

    def __post_init__(self) -> None:
        metrics = {member.model.objective.metric for member in self.members}
        if len(metrics) != 1:
            raise UserError(
                f"path has checkpoints trained for {' and '.join(sorted(metrics)) or 'nothing'}: give one or several of"
                " the same objective"
            )

    def adapt(self, x: ArrayLike | Tensor, y: ArrayLike | Tensor, inner_steps: int | None = None) -> "AdaptedEnsemble":
        """Learn a new task from a few examples, every learner by itself; arguments as for ``MetaLearner.adapt``."""
        return AdaptedEnsemble(tuple(member.adapt(x, y, inner_steps) for member in self.members))


@dataclass(frozen=True)
class AdaptedEnsemble(Predictor):
    """Learners that have learned the same task, and predict the mean of their probabilities, or of their outputs.

    Attributes:
        members: the adapted learners.
    """

    members: tuple[AdaptedLearner, ...]

    @property
    def classes_(self) -> Labels | None:  # type: ignore[override] # read alone
        return self.members[0].classes_

    @property
    def n_features_in_(self) -> int:
        """Values of one example."""
        return self.members[0].n_features_in_

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.members[0].input_shape

    @cached_property
    def network(self) -> nn.Module:
        """One network of all their networks; of classes it outputs the logs of mean probabilities."""
        return MeanNetwork([member.network for member in self.members], self.classes_ is not None).eval()

    def decision_function(self, x: ArrayLike | Tensor, transductive: bool = False) -> NDArray[np.float32]:
        """Of classes the logs of their mean probabilities, ``[X, N]``; in regression the mean outputs."""
        found = [torch.from_numpy(member.decision_function(x, transductive)) for member in self.members]
        array: NDArray[np.float32] = mean_prediction(found, classes=self.classes_ is not None).numpy()
        return array

    def example(self) -> Tensor:
        """Two inputs of the right shape and type, to export the network with."""
        return self.members[0].example()


class MeanNetwork(nn.Module):
    """The mean prediction of some networks, as the outputs of one.

    Args:
        networks: adapted ones, in evaluation mode.
        classes: whether they output logits.
    """

    def __init__(self, networks: list[nn.Module], classes: bool) -> None:
        super().__init__()
        self.networks, self.classes = nn.ModuleList(networks), classes

    def forward(self, x: Tensor) -> Tensor:
        return mean_prediction([logits_of(network(x), network) for network in self.networks], self.classes)
