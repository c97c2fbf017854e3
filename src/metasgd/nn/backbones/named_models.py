"""Models by name: torchvision's, and timm's where it is installed."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from metasgd.errors import UserError, first_line

Weights = Mapping[str, Tensor]
DEFAULT_SIZE = 224
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's colours, by which most models were trained."""
DEFAULT = "DEFAULT"
"""Of the names of weights, the one that every model with weights has."""


@dataclass(frozen=True)
class NamedModel:
    """A model that a library knows by name, not made yet.

    Attributes:
        library: torchvision or timm.
        make: the model for pictures of a height and width in pixels, with random weights.
        image_size: height and width that its weights were trained for.
        mean: of the colours, from 0 to 1, that its weights were trained with.
        std: their standard deviation.
        weight_names: of the pretrained weights that the library can download.
        download: the weights of such a name.
    """

    library: str
    make: Callable[[int], nn.Module]
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    weight_names: tuple[str, ...]
    download: Callable[[str], Weights]


def named_model(name: str, weights: str | None = None) -> NamedModel:
    """What is known of the model called ``name``: in torchvision, or else in timm.

    Args:
        name: as ``resnet18``; ``timm/resnet18`` for timm's of that name.
        weights: a name of pretrained weights, whose picture size and colours count; of other things, the default's.

    Raises:
        UserError: no library has such a model, or timm is needed and not installed.
    """
    bare = name.removeprefix("timm/")
    of_torchvision = _torchvision_names()
    if bare == name and name in of_torchvision:
        return _of_torchvision(name, weights)
    of_timm = _timm_names()
    if bare in of_timm:
        return _of_timm(bare)
    near = get_close_matches(bare, [*of_torchvision, *of_timm], n=5, cutoff=0.5) or ["resnet18", "mobilenet_v3_small"]
    timm = (
        "timm has none either" if find_spec("timm") else "timm, which may have it, is not installed (pip install timm)"
    )
    raise UserError(
        f"model is {name!r}, of which torchvision has no classification model, and {timm}. Near names:"
        f" {', '.join(dict.fromkeys(near))}; or give a module by its class path"
    )


def weight_name(known: NamedModel, weights: str) -> str | None:
    """``weights`` as one of the library's names, without torchvision's class before it; None if it is none."""
    bare = weights.rpartition("_Weights.")[2]
    return bare if bare in known.weight_names else None


def _torchvision_names() -> list[str]:
    from torchvision import models  # which takes long to import, and is not needed for other networks

    return list(models.list_models(module=models))


def _timm_names() -> list[str]:
    if not find_spec("timm"):
        return []
    import timm

    return list(timm.list_models())


def _of_torchvision(name: str, weights: str | None) -> NamedModel:
    from torchvision import models

    choices = models.get_model_weights(name)
    names = (DEFAULT, *(member.name for member in choices))

    def chosen(of: str) -> Any:
        return choices[of.rpartition("_Weights.")[2]]  # DEFAULT is another name of one of them

    known = weights is not None and weights.rpartition("_Weights.")[2] in names
    form = chosen(weights if known and weights is not None else DEFAULT).transforms()

    def make(image_size: int) -> nn.Module:
        # only those models that depend on it take the size, under names of their own
        sizes: list[dict[str, Any]] = [{"image_size": image_size}, {"input_size": (image_size, image_size)}, {}]
        for options in sizes if image_size != DEFAULT_SIZE else [{}]:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FutureWarning)  # of how GoogLeNet will once be initialised
                    return _without_auxiliary(models.get_model(name, weights=None, **options))
            except TypeError:
                if not options:
                    raise
            except (ValueError, AssertionError) as error:
                said = first_line(error).rstrip(".")
                raise UserError(f"image_size is {image_size}, for which {name} cannot be made: {said}") from error
        raise AssertionError("the last options are none")

    return NamedModel(
        library="torchvision",
        make=make,
        image_size=int(form.crop_size[0] if isinstance(form.crop_size, Sequence) else form.crop_size),
        mean=tuple(form.mean),
        std=tuple(form.std),
        weight_names=names,
        download=lambda of: chosen(of).get_state_dict(progress=False, check_hash=True),
    )


def _without_auxiliary(model: Any) -> nn.Module:
    """Without the classifiers beside the last one that GoogLeNet and Inception have while they are trained.

    Their own weights are for colours that they normalise once more.
    """
    if hasattr(model, "transform_input"):
        model.transform_input = True
    if getattr(model, "aux_logits", False):
        model.aux_logits = False
        for name, _ in list(model.named_children()):
            if name.lower().startswith("aux"):
                setattr(model, name, None)
    made: nn.Module = model
    return made


def _of_timm(name: str) -> NamedModel:
    import timm

    about = timm.get_pretrained_cfg(name)
    mean, std = (tuple(about.mean), tuple(about.std)) if about else IMAGENET

    def make(image_size: int) -> nn.Module:
        try:
            return timm.create_model(name, img_size=image_size)
        except TypeError:  # whose size does not matter
            return timm.create_model(name)

    return NamedModel(
        library="timm",
        make=make,
        image_size=about.input_size[-1] if about else DEFAULT_SIZE,
        mean=mean,
        std=std,
        weight_names=(DEFAULT,) if about and about.has_weights else (),
        download=lambda _: timm.create_model(name, pretrained=True).state_dict(),
    )
