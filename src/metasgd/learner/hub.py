"""Learners on the Hugging Face Hub, by huggingface_hub's own mixin: the extra ``metasgd[hub]``."""

from pathlib import Path
from typing import Any

from metasgd.errors import UserError, first_line
from metasgd.learner.load import load
from metasgd.learner.meta_learner import MetaLearner
from metasgd.learner.save import save

try:
    from huggingface_hub import ModelHubMixin, hf_hub_download
except ImportError as error:
    raise UserError(
        f"the Hub needs the package huggingface_hub, which cannot be imported ({first_line(error)}). Install it with"
        " pip install metasgd[hub]"
    ) from error

FILE = "model.safetensors"
"""Of a learner, in its repository or folder."""


class HubLearner(ModelHubMixin, library_name="metasgd", tags=["meta-learning", "few-shot-learning"]):  # type: ignore[call-arg]
    """A learner with ``push_to_hub``, ``from_pretrained`` and ``save_pretrained``, as models of the Hub have them.

    Args:
        learner: as ``metasgd.load`` returns it.

    Example:
        >>> import metasgd
        >>> HubLearner(metasgd.load("omniglot")).push_to_hub("me/omniglot")  # doctest: +SKIP
        >>> learner = HubLearner.from_pretrained("me/omniglot").learner  # doctest: +SKIP
    """

    def __init__(self, learner: MetaLearner) -> None:
        self.learner = learner

    def _save_pretrained(self, save_directory: Path) -> None:
        save(self.learner, save_directory / FILE)
        (save_directory / "config.json").write_text(
            '{"library_name": "metasgd"}\n'
        )  # by which the Hub counts downloads

    @classmethod
    def _from_pretrained(cls, *, model_id: str, trust: bool = False, **download: Any) -> "HubLearner":
        """``trust``, as ``metasgd.load`` takes it, may be given to ``from_pretrained``."""
        folder = Path(model_id)
        path = folder / FILE if folder.is_dir() else Path(hf_hub_download(model_id, FILE, **download))
        return cls(load(path, trust))
