"""How long 60,000 pictures take to decode, and the memory that a run on them needs.

    python benchmarks/picture_memory.py [--pictures 60000] [--steps 120] [--json out.json]

Makes JPEG files of 84×84 in miniImageNet's layout (100 classes) and prints, of three commands, the seconds and the
peaks of the resident memory over all their processes: in all, of their own, and of mapped files, whose pages the system
takes back when it needs them. One decodes the pictures into the cache, one draws 3,000 training tasks from there,
which meet nearly every picture, and one is a ``fit`` on configs/mini_imagenet.yaml with two validations.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
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


SOURCE = """
import sys
from pathlib import Path
import numpy as np
from metasgd.data.images.image_folder import ImageFolder
from metasgd.data.task_shape import TaskShape
root, cache = map(Path, sys.argv[1:3])
source = ImageFolder(image_size=84)
"""
DECODE = SOURCE + "source.prepare(root, cache)"
DRAW = (
    SOURCE
    + """
sampler = source.sampler("train", root, cache, 0, TaskShape(n_way=5, k_shot=1, n_query=15))
for i in range(3000):
    sampler.draw(np.array([i]))
"""
)
FIELDS = {"VmRSS": "in all", "RssAnon": "its own", "RssFile": "of files"}


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(p for children in tasks for child in children.read_text().split() for p in tree(int(child)))]


def resident(pid: int) -> dict[str, float]:
    """Memory of a process and all below it, MiB."""
    found = dict.fromkeys(FIELDS.values(), 0.0)
    with suppress(FileNotFoundError, ProcessLookupError):  # one has just ended
        for each in tree(pid):
            for line in Path(f"/proc/{each}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in FIELDS:
                    found[FIELDS[name]] += int(value.split()[0]) / 1024
    return found


def measured(command: list[str], work: Path) -> dict[str, float]:
    """Seconds, and peaks in MiB, of a command; looked at 20 times a second."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], cwd=work, stdout=subprocess.DEVNULL)
    peaks = dict.fromkeys(FIELDS.values(), 0.0)
    while process.poll() is None:
        peaks = {what: max(peaks[what], value) for what, value in resident(process.pid).items()}
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"it left with {process.returncode}")
    return {"seconds": time.perf_counter() - start, **peaks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--steps", type=int, default=120, help="outer steps of the fit")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        root, cache = work / "pictures", work / "cache"
        make(root, arguments.pictures)
        config = str(ROOT / "configs" / "mini_imagenet.yaml")
        places = ["--data.root", str(root), "--data.cache_dir", str(cache), "--trainer.accelerator", "cpu"]
        steps = ["--trainer.max_steps", str(arguments.steps), "--trainer.val_check_interval", str(arguments.steps // 2)]
        commands = {
            "decode": ["-c", DECODE, str(root), str(cache)],
            "draw 3,000 tasks": ["-c", DRAW, str(root), str(cache)],
            "fit": ["-m", "metasgd", "fit", "--config", config, *places, *steps, "--data.val_tasks", "100"],
        }
        found: dict[str, dict[str, float]] = {}
        for what, command in commands.items():
            found[what] = {name: round(value, 1) for name, value in measured(command, work).items()}
            figures = ", ".join(f"{name} {value:.0f} MiB" for name, value in list(found[what].items())[1:])
            print(f"{what:16} {found[what]['seconds']:6.1f} s; at most {figures}", flush=True)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"pictures": arguments.pictures, "steps": arguments.steps, **found}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
