"""A meta-trained learner in a few lines of Python, with the habits of scikit-learn.

    learner = metasgd.load("runs/glyphs/version_0/checkpoints/best.ckpt")
    adapted = learner.adapt(x, y)
    adapted.predict(more_x)

Shape letters: X examples, N classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from metasgd.episode import Episode
from metasgd.errors import UserError, raise_problems, too_small
from metasgd.learner.adaptation import adapted, adapted_head, outputs_of
from metasgd.learner.adapted_learner import AdaptedLearner, as_array, as_inputs, float_dtype
from metasgd.learner.predictor import Labels
from metasgd.meta.frozen_layers import features_of, frozen_layers, passed_over
from metasgd.meta.model import MetaModel
from metasgd.meta.reached import reached
from metasgd.nn.behaviour import alike
from metasgd.nn.calling import call
from metasgd.nn.heads import features_read
from metasgd.nn.networks import class_agnostic_names, prototype_head
from metasgd.nn.prefix import NoPrefixError, Prefix
from metasgd.nn.validation import validate_tasks


@dataclass(frozen=True)
class MetaLearner:
    """A network and its update rule as they were meta-trained: what a checkpoint holds.

    Attributes:
        model: both, with their learned weights, on the CPU; ``module`` is another name for it.
        config: the configuration of the run that wrote the checkpoint, as in its config.yaml.
        trusted: whether classes of any package that it names may be imported.

    Example:
        >>> import metasgd
        >>> adapted = metasgd.load("sinusoid").adapt([[0.0], [1.0], [2.0]], [0.0, 0.8, 0.9], inner_steps=1)
        >>> adapted.predict([[0.5], [1.5]]).shape
        (2, 1)
    """

    model: MetaModel
    config: dict[str, Any]
    trusted: bool = False

    @property
    def module(self) -> MetaModel:
        """``model``, under its name in earlier versions."""
        return self.model

    def adapt(
        self,
        x: ArrayLike | Tensor,
        y: ArrayLike | Tensor,
        inner_steps: int | None = None,
        features: Tensor | None = None,
    ) -> AdaptedLearner:
        """Learn a new task from a few examples; the learner itself stays as it is.

        Args:
            x: ``[X, …]``: images uint8, or float from 0 to 1, ``[X, channels, height, width]``; also without
                the channel where that is one, or flattened ``[X, features]``.
            y: ``[X]``, the class of each in any type that can be sorted; in regression ``[X]`` or
                ``[X, outputs]``. Classes may have different numbers of examples: each class weighs the same.
            inner_steps: S, also beyond those of training; by default as many as in evaluation.
            features: ``features(x)``, where they are known: without an inner step the rest of the network is not run.

        Raises:
            UserError: the examples do not fit the network, each other, or the number of classes that its head
                tells apart.
        """
        task, classes = self._task(x, y)
        steps = self._steps(inner_steps)
        if features is not None and not steps:
            return adapted_head(self.model, task, classes, features)
        return adapted(self.model, task, classes, steps)

    def reached(self, x: ArrayLike | Tensor, y: ArrayLike | Tensor, inner_steps: int | None = None) -> frozenset[str]:
        """Names of the parameters that an inner gradient reaches in ``adapt`` with the same arguments."""
        return reached(self.model.config, self.model.held.names, self._task(x, y)[0], self._steps(inner_steps))

    def leave_one_out(
        self, x: ArrayLike | Tensor, y: ArrayLike | Tensor, inner_steps: int | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Predict each example from all the others, one adaptation each.

        Yields the number of each example whose class has others, and its predicted class.
        """
        classes = np.unique(np.asarray(y)) if self.model.objective.metric == "accuracy" else None
        for i, outputs in self.left_out(x, y, inner_steps):
            yield i, outputs if classes is None else classes[outputs.argmax()]

    def left_out(
        self, x: ArrayLike | Tensor, y: ArrayLike | Tensor, inner_steps: int | None = None
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The same as outputs ``[N]``: of classes their logits, in the order of all the classes of y."""
        inputs, labels = as_inputs(self.model.network, x), np.asarray(y)
        steps = self._steps(inner_steps)
        if not steps and self.reads_each_alone(inputs):
            _, targets = self._classes(labels, len(inputs))
            outputs = as_array(self.left_out_logits(inputs, targets.to(inputs.device)))
            yield from ((int(i), outputs[i]) for i in np.flatnonzero(_has_others(labels)))
            return
        task, _ = self._task(inputs, labels)
        prefix = self._prefix(task) if steps else None
        given = features_of(prefix, task)
        for i in np.flatnonzero(_has_others(labels)):
            others = torch.arange(len(labels)) != int(i)
            part = given._replace(support_x=given.support_x[:, others], support_y=given.support_y[:, others])
            with passed_over(prefix):  # and not while the caller has its turn
                found = outputs_of(self.model, part, steps, given.support_x[0, i : i + 1])
            yield int(i), as_array(found[0])

    def _prefix(self, task: Episode) -> Prefix | None:
        """The layers that do not adapt, for the examples of several adaptations to pass once."""
        config = self.model.eval().config
        if config.feed_forward is not None:
            return None
        try:
            return frozen_layers(replace(config, unlearned=frozenset(config.theta)), task)
        except NoPrefixError:
            return None

    @torch.no_grad()
    def reads_each_alone(self, inputs: Tensor) -> bool:
        """Whether the network's features of an example are the same whatever is in its batch, for a prototype head."""
        network = self.model.network.eval()
        found = prototype_head(network)
        if found is None or len(inputs) < 3:
            return False
        beside_one, beside_another = (features_read(network, found[0], inputs[[0, i]])[0] for i in (1, 2))
        return alike(beside_one, beside_another)

    @torch.no_grad()
    def features(self, inputs: Tensor) -> Tensor:
        """What the network's prototype head reads of each example, ``[X, D]``."""
        network = self.model.network.eval()
        found = prototype_head(network)
        assert found is not None
        return features_read(network, found[0], inputs)

    @torch.no_grad()
    def left_out_logits(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The outputs for each example without an inner step, by prototypes of all the others, ``[X, N]``.

        Args:
            inputs: the support set, ``[X, …]``, of a network with a prototype head.
            targets: its classes 0 … N − 1, ``[X]``.
        """
        found = prototype_head(self.model.network)
        assert found is not None
        return found[1].left_out(self.features(inputs), targets) * found[1].log_temperature.exp()

    def n_left_out(self, y: ArrayLike | Tensor) -> int:
        """How many examples ``leave_one_out`` predicts."""
        return int(_has_others(np.asarray(y)).sum())

    def _steps(self, inner_steps: int | None) -> int:
        steps = self.model.eval_inner_steps if inner_steps is None else inner_steps
        raise_problems(too_small(("inner_steps", steps, 0)))
        return steps

    def _task(self, x: ArrayLike | Tensor, y: ArrayLike | Tensor) -> tuple[Episode, Labels | None]:
        """A task of these support examples and no query, and its classes; none in regression."""
        if self.model.objective.environment is not None:
            raise UserError(
                "this learner adapts by trajectories of its own and not by examples: give tasks that metasgd.rl.Trials"
                " draws to its MetaModel's evaluate"
            )
        inputs = as_inputs(self.model.network, x)
        if self.model.objective.metric == "accuracy":
            classes, targets = self._classes(y, len(inputs))
        else:
            classes, targets = None, self._targets(y, len(inputs))
        self._validate_fit(inputs, targets, classes)
        task = Episode(
            support_x=inputs[None],
            support_y=targets[None].to(inputs.device),
            query_x=inputs[None, :0],
            query_y=targets[None, :0],
            classes=torch.arange(1 if classes is None else len(classes))[None],
            task_index=torch.zeros(1, dtype=torch.int64),
        )
        return task, classes

    def _classes(self, y: ArrayLike | Tensor, n: int) -> tuple[Labels, Tensor]:
        labels = np.asarray(y)
        if labels.shape != (n,):
            raise UserError(f"y has the shape {labels.shape}: one class for each of the {n} examples of x is needed")
        classes, targets = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise UserError(f"y has {len(classes)} class: at least 2 are needed to tell apart")
        return classes, torch.from_numpy(targets.astype(np.int64))

    def _targets(self, y: ArrayLike | Tensor, n: int) -> Tensor:
        targets = torch.as_tensor(np.asarray(y), dtype=float_dtype(self.model.network))
        if targets.ndim not in (1, 2) or len(targets) != n or not n:
            raise UserError(f"y has the shape {tuple(targets.shape)}: a target for each of the {n} examples is needed")
        return targets[:, None] if targets.ndim == 1 else targets

    @torch.no_grad()
    def _validate_fit(self, inputs: Tensor, targets: Tensor, classes: Labels | None) -> None:
        network = self.model.eval().network
        validate_tasks(network, inputs[:2], targets[:2].to(inputs.device), 1)
        if classes is None or class_agnostic_names(network):
            return
        head_has = call(network, {}, inputs[:2]).shape[1]
        if len(classes) != head_has:
            raise UserError(
                f"{len(classes)} classes were given ({', '.join(map(str, classes[:5]))}{', …' * (len(classes) > 5)}),"
                f" but the head of this checkpoint is a linear one that tells exactly {head_has} apart. Give"
                f" {head_has}, or take a checkpoint with a class-agnostic head"
            )


def _has_others(labels: Labels) -> NDArray[np.bool_]:
    classes, number = np.unique(labels, return_counts=True)
    return np.isin(labels, classes[number > 1])
