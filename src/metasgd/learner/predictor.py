"""What predicts the examples of a task, with the habits of scikit-learn. Shape letters: X examples, N classes."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from metasgd.errors import UserError

Labels = NDArray[Any]


class Predictor(ABC):
    """Predictions out of a decision function.

    Attributes:
        classes_: the N classes, sorted; none in regression.
    """

    classes_: Labels | None

    @abstractmethod
    def decision_function(self, x: ArrayLike | Tensor, transductive: bool = False) -> NDArray[np.float32]:
        """Outputs ``[X, N]``: of classes their logits."""

    def predict_proba(self, x: ArrayLike | Tensor, transductive: bool = False) -> NDArray[np.float32]:
        """The probability of each class, ``[X, N]``, in the order of ``classes_``."""
        if self.classes_ is None:
            raise UserError("this checkpoint was trained for regression: it has no classes, use predict")
        array: NDArray[np.float32] = torch.from_numpy(self.decision_function(x, transductive)).softmax(dim=1).numpy()
        return array

    def predict(self, x: ArrayLike | Tensor, transductive: bool = False) -> Labels:
        """The most probable class of each, ``[X]``; in regression the outputs, ``[X, outputs]``."""
        outputs = self.decision_function(x, transductive)
        return outputs if self.classes_ is None else self.classes_[outputs.argmax(axis=1)]

    def score(self, x: ArrayLike | Tensor, y: ArrayLike, transductive: bool = False) -> float:
        """The share of x that is predicted as y says; in regression R², as scikit-learn has it."""
        predicted, truth = self.predict(x, transductive), np.asarray(y)
        if truth.shape != predicted.shape and (self.classes_ is not None or truth.size != predicted.size):
            raise UserError(f"y has the shape {truth.shape}, but the predictions for x have {predicted.shape}")
        if self.classes_ is not None:
            return float((predicted == truth).mean())
        truth = truth.reshape(predicted.shape)
        return float(1 - ((truth - predicted) ** 2).sum() / ((truth - truth.mean(axis=0)) ** 2).sum())
