"""The optimizer that a network is trained by, made and in words."""

from torch.optim import LBFGS, Optimizer

from metasgd.errors import UserError, first_line
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.supervised.module import SupervisedModule


def made_by(module: SupervisedModule) -> Optimizer:
    """The optimizer of the module's network.

    Raises:
        UserError: it refuses its settings or the network's parameters, or evaluates the loss several times in a step.
    """
    try:
        made = module.configure_optimizers()
    except UserError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"--optimizer cannot be made as it is set ({first_line(error)}): choose other options of it, as"
            " --optimizer.lr 0.003"
        ) from error
    if isinstance(made, LBFGS):
        raise UserError(
            "--optimizer is LBFGS, which evaluates the loss several times in a step: choose one that steps by a single"
            " gradient, as torch.optim.Adam"
        )
    return made


def described(optimizer: Optimizer, optimizer_ckpt: str | None, lr: float) -> str:
    """The optimizer and its rate, in words."""
    if isinstance(optimizer, LearnedOptimizer):
        return f"learned, of {optimizer_ckpt}, lr factor {lr:g}"
    rate = f", lr {optimizer.defaults['lr']:g}" if "lr" in optimizer.defaults else ""
    return type(optimizer).__name__ + rate
