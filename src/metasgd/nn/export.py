"""An adapted network as a plain one: no inner loop, no statistics of batches, nothing of ours to run it."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metasgd.errors import UserError
from metasgd.nn.calling import hooked, logits_of, network_copy
from metasgd.nn.heads import ClassAgnosticHead
from metasgd.nn.networks import BatchNorm2d
from metasgd.rules.base import Params


def exported(network: nn.Module, n_way: int) -> nn.Module:
    """A copy of ``network`` for evaluation, with parameters of the same names, in torch's own modules.

    A class-agnostic head becomes an ``nn.Linear`` with a row for each of ``n_way`` classes. A normalisation by
    the batch's statistics becomes one by buffers ``running_mean`` and ``running_var``. All lies contiguous in memory.
    """
    plain = _plain(network_copy(network, share=False), n_way, {}).eval().requires_grad_(False)
    return plain.to(memory_format=torch.contiguous_format)


def _plain(module: nn.Module, n_way: int, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module not in done:
        done[module] = _replacement(module, n_way) or module
        for name, child in list(module._modules.items()):  # where one that comes twice has both of its names
            if child is not None:
                setattr(module, name, _plain(child, n_way, done))
    return done[module]


def _replacement(module: nn.Module, n_way: int) -> nn.Module | None:
    if isinstance(module, ClassAgnosticHead):
        return nn.Linear(module.weight.shape[1], n_way).to(module.weight)
    if isinstance(module, BatchNorm2d):
        return nn.BatchNorm2d(len(module.weight), eps=module.eps).to(module.weight)
    if isinstance(module, _BatchNorm) and module.running_mean is None:
        # not a new one: a class of others may need arguments, and do more
        like = next(module.parameters(), torch.empty(0))
        module.track_running_stats = True
        module.register_buffer("running_mean", like.new_zeros(module.num_features))
        module.register_buffer("running_var", like.new_ones(module.num_features))
        module.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64, device=like.device))
    return None


@torch.no_grad()
def freeze_statistics(network: nn.Module, params: Params, support_x: Tensor, n_way: int) -> nn.Module:
    """The plain network with the weights ``params``, normalising by the statistics of the support set.

    A normalisation that has stored statistics keeps them.

    Args:
        network: f, from which the structure is taken, and the parameters that ``params`` lacks.
        params: adapted parameters by name, a class-agnostic head's with ``n_way`` rows.
        support_x: ``[X, …]``, whose statistics become constants.
        n_way: N.

    Raises:
        UserError: a normalisation is used more than once in a pass, so that no one statistic is its own.
    """
    stored = {n for n, m in network.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}
    plain = exported(network, n_way)
    own = plain.state_dict()
    for name, p in {**dict(network.named_parameters()), **params}.items():
        if name in own:  # the scales of a prototype head are in its rows
            own[name].copy_(p.expand_as(own[name]))
    layers = {name: m for name, m in plain.named_modules() if isinstance(m, _BatchNorm) and name not in stored}
    seen: set[str] = set()

    def measure(name: str, layer: _BatchNorm, x: Tensor) -> None:
        if name in seen:
            raise UserError(f"network has {name}, which normalises twice in a pass, so it cannot be given constants")
        seen.add(name)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        var, mean = torch.var_mean(x.transpose(0, 1).flatten(1), dim=1, correction=0)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)

    # in front of each layer, so that it normalises the very batch that it has just measured, as in adaptation
    hooks = (
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: measure(name, layer, inputs[0]))
        for name, layer in layers.items()
    )
    if layers:
        with hooked(hooks):
            plain(support_x)
    return plain


def validate_onnx_installed() -> None:
    """Refuse to write ONNX without the packages that do.

    Raises:
        UserError: names those that are not installed.
    """
    missing = [package for package in ("onnx", "onnxscript") if find_spec(package) is None]
    if missing:
        raise UserError(
            f"writing ONNX needs {' and '.join(missing)}, not installed here: pip install {' '.join(missing)}, or use"
            " the format .pt2 or .pt, which need no further package"
        )


def as_onnx(network: nn.Module, example: Tensor, metadata: dict[str, str]) -> bytes:
    """A plain network as an ONNX file: input ``x`` ``[X, …]``, output ``logits`` ``[X, N]``, any number X.

    Args:
        network: as ``freeze_statistics`` makes it.
        example: two inputs, ``[2, …]``.
        metadata: saved in the file.

    Raises:
        UserError: the packages that write ONNX are not installed.
    """
    validate_onnx_installed()
    with _without_warnings_of_torch():
        program = torch.onnx.export(
            _of_logits(network, example),
            (example,),
            input_names=["x"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata)
    content: bytes = program.model_proto.SerializeToString()
    return content


def as_program(network: nn.Module, example: Tensor, metadata: dict[str, str]) -> bytes:
    """A plain network as a ``torch.export`` archive; arguments as for ``as_onnx``."""
    with _without_warnings_of_torch():
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(_of_logits(network, example), (example,), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=metadata)
    return file.getvalue()


class _OfLogits(nn.Module):
    """A network whose logits alone are of interest, where it returns more."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.network(x), self.network)


@torch.no_grad()
def _of_logits(network: nn.Module, example: Tensor) -> nn.Module:
    """The network itself where it returns the logits, and so the names of its weights."""
    return network if isinstance(network(example), Tensor) else _OfLogits(network).eval()


@contextmanager
def _without_warnings_of_torch() -> Iterator[None]:
    """Of how torch exports its own recurrent layers, which a user can do nothing about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "_check_is_size will be removed", FutureWarning)
        warnings.filterwarnings("ignore", "(?s).*_flat_weights", UserWarning)
        yield
