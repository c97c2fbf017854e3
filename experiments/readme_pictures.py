"""Draw the README's pictures from the published checkpoints.

python experiments/readme_pictures.py [--omniglot data/omniglot]
"""

import argparse
from pathlib import Path

import numpy as np

import metasgd
from metasgd.data.cache import default_cache_dir
from metasgd.data.omniglot.source import Omniglot
from metasgd.data.sinusoid import SinusoidSampler
from metasgd.data.task_shape import TaskShape
from metasgd.meta.evaluate import evaluate
from metasgd.training.callbacks.curves import curves_figure
from metasgd.training.callbacks.tensorboard import task_figure

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"


def curves() -> None:
    module = metasgd.load(ROOT / "checkpoints" / "sinusoid" / "model.ckpt").model
    tasks = SinusoidSampler("test", 0, TaskShape(1, 5, 10)).draw_whole(np.arange(4), 200)
    evaluated = evaluate(module.config, dict(module.network.named_parameters()), tasks, 1, (0, 1))
    curves_figure(tasks, evaluated.outputs, (0, 1)).savefig(IMAGES / "curves.png", dpi=80)


def task(root: Path) -> None:
    module = metasgd.load(ROOT / "checkpoints" / "omniglot" / "model.ckpt").model
    source = Omniglot()
    cache = Path(default_cache_dir()).expanduser()
    source.prepare(root, cache)
    drawn = source.sampler("test", root, cache, 0, TaskShape(5, 1, 8)).draw(np.zeros(1, dtype=np.int64))
    outputs = module.evaluate(drawn, after=[module.eval_inner_steps]).outputs[0, 0]
    task_figure(drawn, outputs.argmax(dim=-1)).savefig(IMAGES / "task.png", dpi=80)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--omniglot", type=Path, default=ROOT / "data" / "omniglot")
    options = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    curves()
    task(options.omniglot)
