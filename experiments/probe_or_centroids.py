"""What ``adapt --backbone`` takes where leave-one-out finds a linear probe and nearest centroids equally good.

    PYTHONPATH=far python experiments/probe_or_centroids.py [--tasks 150]

``far`` is where far_pictures.py has its packages. Tasks are of printed glyphs of the training and validation scripts,
as they are and photographed: of none of these does a table report anything. Features are those of EfficientNet-Lite0.
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from far_pictures import SIDE, drawn, features_of, photographed, some, split
from torch import Tensor

from metasgd.data import Glyphs
from metasgd.data.rng import Split
from metasgd.learner.linear_probe import ProbeHead
from metasgd.nn import Backbone, PrototypeHead

SHAPES = ((5, 1), (5, 2), (5, 3), (5, 5), (10, 3), (3, 4))
QUERIES = 5


class Answer(NamedTuple):
    """Of a head on one task: how many left-out examples it predicts right, and what share of the queries."""

    left_out: int
    accuracy: float


def all_features(cache: Path) -> dict[str, Tensor]:
    """Of 60 glyphs, 15 drawings of each, ``[60, 15, D]``; from a file if it is there."""
    from twenty_pictures import write_weights

    if not (path := cache / "features_of_glyphs.pt").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        write_weights(weights := cache / "efficientnet.pt")
        network, letters, found = Backbone("tf_efficientnet_lite0", str(weights), image_size=SIDE), Glyphs(), {}
        splits: tuple[Split, Split] = ("val", "train")
        for of in splits:
            pictures = some(letters.pool(of, cache, cache), 60, 15)
            found[f"{of}, printed"] = features_of(network, pictures).late
            found[f"{of}, photographed"] = features_of(network, photographed(pictures)).late
        torch.save(found, path)
    loaded: dict[str, Tensor] = torch.load(path)
    return loaded


@torch.no_grad()
def answered(head: PrototypeHead, x: Tensor, y: Tensor, query: Tensor, truth: Tensor) -> Answer:
    weight, bias = head.rows(head.log_scale, x, y, int(y.max()) + 1)
    right = (head.left_out(x, y).argmax(dim=1) == y).sum() if len(y) > y.max() + 1 else 0
    return Answer(int(right), float(((query @ weight.T + bias).argmax(dim=1) == truth).float().mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=150)
    parser.add_argument("--cache", default="data/far")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, features in all_features(Path(options.cache)).items():
        heads = PrototypeHead(features.shape[-1]), ProbeHead(features.shape[-1])
        for ways, shots in SHAPES:
            y, truth = (torch.arange(ways).repeat_interleave(n) for n in (shots, QUERIES))
            found = []
            for task in range(options.tasks):
                chosen = drawn(features, ways, shots + QUERIES, np.random.default_rng((7, ways, shots, task)))
                x, query = split(features, chosen, shots)
                found.append([value for head in heads for value in answered(head, x, y, query, truth)])
            of_centroids, centroids, of_probe, probe = np.array(found).T
            tie = of_probe == of_centroids
            gain = 100 * np.where(tie, probe - centroids, 0)
            print(
                f"{name}, {ways}-way {shots}-shot: centroids {centroids.mean():.1%}, probe {probe.mean():.1%}, equal in"
                f" {tie.mean():.0%} of the tasks; the probe there gains {gain.mean():+.2f} points ±"
                f" {1.96 * gain.std(ddof=1) / math.sqrt(len(gain)):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
