"""What ``adapt --backbone`` costs on a CPU: twenty labelled pictures, thirty to predict, each network by itself.

    python benchmarks/backbones.py [NAME ...] && PYTHONPATH=experiments python benchmarks/performance_tables.py

Every network has a process of its own on one thread. Times are of the processor, not of the clock, so that other loads
of the machine count little; memory is the peak of what is resident. Weights are random: the work is the same. Pictures
are JPEGs of 320×240. A network that is measured again replaces its own entry in the record.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import models

NAMES = ("mobilenet_v3_small", "efficientnet_b0", "resnet18", "resnet50", "convnext_tiny", "vit_b_16")
ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "performance" / "backbones.json"
CLASSES, LABELLED, ASKED = 5, 4, 6


def cost(arguments: list[str], folder: Path) -> tuple[float, int]:
    """Seconds of the processor and peak bytes of a command."""
    own = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT / "src")}
    with (folder / "log.txt").open("w") as log:
        started = subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=log, env=os.environ | own)
        _, status, used = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode not in (0, 3):
        sys.exit(f"{' '.join(arguments)}\n{(folder / 'log.txt').read_text()[-3000:]}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def write_pictures(folder: Path) -> None:
    """Of each class a coarse pattern, under noise."""
    stream = np.random.default_rng(0)
    for c in range(CLASSES):
        pattern = stream.integers(50, 205, size=(6, 8, 3))
        for part, n in (("labelled", LABELLED), ("unlabelled", ASKED)):
            place = folder / part / f"class{c}"
            place.mkdir(parents=True)
            for k in range(n):
                coarse = pattern + stream.integers(-50, 50, size=pattern.shape)
                Image.fromarray(coarse.astype(np.uint8)).resize((320, 240)).save(place / f"{k}.jpg")


def write_weights(name: str, path: Path) -> int:
    """Random ones, with statistics that a batch has entered; how many parameters there are."""
    torch.manual_seed(0)
    model = models.get_model(name)
    if any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()):
        with torch.no_grad():
            model(torch.rand(4, 3, 224, 224))
    torch.save(model.state_dict(), path)
    return sum(p.numel() for p in model.parameters())


def measured(name: str, folder: Path) -> dict[str, Any]:
    parameters = write_weights(name, folder / "weights.pt")
    places = ["--support", "labelled", "--query", "unlabelled", "--output", "out.csv"]
    command = [sys.executable, "-m", "metasgd", "adapt", "--backbone", name, "--weights", "weights.pt", *places]
    seconds, peak = cost(command, folder)
    return {"name": name, "parameters": parameters, "seconds": seconds, "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {"results": []}
    found = {r["name"]: r for r in record["results"]}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pictures(folder)
        record["torch"] = torch.__version__
        record["seconds_to_import"], _ = cost([sys.executable, "-c", "import metasgd.cli, torchvision"], folder)
        for name in options.names:
            found[name] = measured(name, folder)
            print(found[name], flush=True)
            record["results"] = [found[n] for n in NAMES if n in found]
            RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
