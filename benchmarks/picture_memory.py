"""How long 60,000 pictures take to decode, and the memory that a run on them needs.

    python benchmarks/picture_memory.py [--pictures 60000] [--json out.json]

Makes JPEG files of 84×84 in miniImageNet's layout (100 classes), then runs ``fit`` twice on
configs/mini_imagenet.yaml: the first run decodes into the cache, the second finds it there. Prints the seconds and the
peak resident memory of each, its reclaimable part (pages of the mapped file) included.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
CLASSES = {"train": 64, "val": 16, "test": 20}
SIDE = 84


def make(root: Path, pictures: int) -> None:
    """``pictures`` JPEG files in all, with the three tables that say their classes."""
    (root / "images").mkdir(parents=True)
    stream = np.random.default_rng(0)
    per_class = pictures // sum(CLASSES.values())
    for split, n_classes in CLASSES.items():
        rows = []
        for c in range(n_classes):
            coarse = stream.integers(256, size=(per_class, 7, 7, 3), dtype=np.uint8)
            for d in range(per_class):
                name = f"{split}{c:02d}_{d:04d}.jpg"
                Image.fromarray(coarse[d]).resize((SIDE, SIDE)).save(root / "images" / name)
                rows.append((name, f"{split}{c:02d}"))
        with (root / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("filename", "label"), *rows])


def fit(root: Path, work: Path) -> tuple[float, float]:
    """Seconds and peak MiB of a run of 20 outer steps and a validation."""
    command = [sys.executable, "-m", "metasgd", "fit", "--config", str(ROOT / "configs" / "mini_imagenet.yaml")]
    command += ["--data.root", str(root), "--data.cache_dir", str(work / "cache"), "--trainer.max_steps", "20"]
    command += ["--trainer.val_check_interval", "20", "--data.val_tasks", "40", "--trainer.accelerator", "cpu"]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"fit left with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make(work / "pictures", arguments.pictures)
        found = {}
        for run in ("decoding first", "from the cache"):
            seconds, peak = fit(work / "pictures", work)
            found[run] = {"seconds": round(seconds, 1), "peak_mib": round(peak)}
            print(f"{run:15} {seconds:7.1f} s  {peak:7.0f} MiB at most")
    if arguments.json:
        arguments.json.write_text(json.dumps({"pictures": arguments.pictures, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
