"""What ``fit`` costs on a CPU with cached features: the head and the last block of a backbone, pictures of 224×224.

    python benchmarks/cached_features.py [NAME ...] && PYTHONPATH=experiments python benchmarks/performance_tables.py

Times are of the processor, on one thread, and differences of whole runs of ``fit``, so that starts and validations
cancel: a run that fills the cache against the same once more, and a long run against a short one, with the cache and
without. Weights and pictures are random: the work is the same. Pictures are JPEGs of 320×240.
"""

import argparse
import json
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from backbones import ROOT, cost, write_weights
from PIL import Image

RECORD = ROOT / "docs" / "performance" / "cached_features.json"
FROZEN = {
    "mobilenet_v3_small": "[body.features.*]",
    "resnet18": "[body.conv1.*, body.bn1.*, 'body.layer[123].*', body.layer4.0.*]",
}
"""All below the last block."""
PICTURES = {"train": (10, 30), "val": (5, 8), "test": (5, 8)}
"""Classes, and pictures of each."""
TASKS, SHOTS, QUERIES, WAYS = 2, 1, 5, 5
SHORT, LONG, PLAIN = 20, 60, 4


def write_pictures(folder: Path) -> None:
    stream = np.random.default_rng(0)
    for split, (classes, each) in PICTURES.items():
        for c in range(classes):
            place = folder / "data" / split / f"{c} of {split[:2]}"
            place.mkdir(parents=True)
            for k in range(each):
                coarse = stream.integers(0, 256, size=(6, 8, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((320, 240)).save(place / f"{k}.jpg")


def seconds_of(name: str, steps: int, cached: bool, folder: Path) -> float:
    network = {"model": name, "weights": "weights.pt", "image_size": 224}
    data = {"root": "data", "cache_dir": "cache", "n_way": WAYS, "k_shot": SHOTS, "n_query": QUERIES}
    data |= {"meta_batch_size": TASKS, "val_tasks": TASKS, "cache_features": cached}
    trainer = {"max_steps": steps, "val_check_interval": steps, "accelerator": "cpu", "enable_progress_bar": False}
    arguments = [
        *("fit", "--config", str(ROOT / "configs" / "image_folder.yaml"), "--model.network", "Backbone"),
        *(f"--model.network.init_args.{o}={v}" for o, v in network.items()),
        *("--model.update_rule", "PerBlock", "--model.adapts", "last:2", "--trainer.logger", "false"),
        *(f"--model.outer.freeze_network={FROZEN[name]}", "--model.outer.zero_steps_until=0"),
        *("--data.source.init_args.image_size=224", "--data.source.init_args.augmentation=[]"),
        *(f"--data.{o}={v}" for o, v in data.items()),
        *(f"--trainer.{o}={v}" for o, v in trainer.items()),
    ]
    return cost([sys.executable, "-m", "metasgd", *arguments], folder)[0]


def measured(name: str, folder: Path) -> dict[str, Any]:
    parameters = write_weights(name, folder / "weights.pt")
    filling = seconds_of(name, SHORT, True, folder)
    (store,) = (folder / "cache").glob("features-*.sqlite")
    with sqlite3.connect(store) as connection:
        pictures, size = connection.execute("SELECT count(*), max(length(value)) FROM features").fetchone()
    short, long = (seconds_of(name, steps, True, folder) for steps in (SHORT, LONG))
    with sqlite3.connect(store) as connection:
        (more,) = connection.execute("SELECT count(*) FROM features").fetchone()
    store.unlink()
    plain = [seconds_of(name, steps, False, folder) for steps in (PLAIN, 2 * PLAIN)]
    picture = (filling - short) / pictures
    return {
        "name": name,
        "parameters": parameters,
        "pictures": pictures,
        "bytes": size,
        "start": short - SHORT * (long - short) / (LONG - SHORT),
        "seconds_per_picture": picture,
        "seconds_per_step": (long - short - picture * (more - pictures)) / (LONG - SHORT),
        "seconds_per_step_without": (plain[1] - plain[0]) / PLAIN,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(FROZEN), metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {"results": []}
    found = {r["name"]: r for r in record["results"]}
    record |= {"torch": torch.__version__, "tasks": TASKS, "pictures_per_task": WAYS * (SHOTS + QUERIES)}
    for name in options.names:
        with tempfile.TemporaryDirectory() as temporary:
            write_pictures(Path(temporary))
            found[name] = measured(name, Path(temporary))
        print(found[name], flush=True)
        record["results"] = [found[n] for n in FROZEN if n in found]
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
