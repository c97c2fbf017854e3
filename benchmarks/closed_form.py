"""What closed-form derivatives of stacked tasks bring over autograd's: one outer gradient, and how exact it is.

    python benchmarks/closed_form.py --device cuda --out closed_form.json

Both go by the same engine, on CUDA as one recording each, in turns. The errors are those of float32 without TF32,
against autograd in float64 on four tasks, by the norm of the whole gradient.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contenders import Ours
from devices import device_of, finish
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from work import Work

from metasgd.meta.engines import EngineName
from metasgd.meta.meta_gradient import MetaGradient
from metasgd.nn.networks import Conv4

WAYS = {"autograd": False, "closed forms": True}
TURNS, STEPS, WARM_UPS = 7, 5, 4
WORKS = [
    Work("conv", 32, 5, 1, 15, 1),
    Work("conv", 32, 5, 1, 15, 5),
    Work("conv", 8, 20, 1, 15, 1),
    Work("mlp", 25, 1, 5, 10, 1),
]
WIDE = Work("conv", 2, 60, 1, 15, 1)
"""Of 32 to 256 filters, with a prototype head; all layers adapt."""


def wide() -> nn.Module:
    torch.manual_seed(0)
    return Conv4(n_way=60, head="prototype", width=[32, 64, 128, 256], features="normalised")


def ours(work: Work, dtype: torch.dtype, device: torch.device, engine: EngineName, closed_form: bool) -> Ours:
    return Ours(work, dtype, device, engine, closed_form, wide() if work is WIDE else None)


def timed(work: Work, device: torch.device) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Milliseconds of an outer gradient, of each turn, and its kernels on a CUDA device."""
    tasks = work.tasks(work.n_tasks, device)
    steps: dict[str, Callable[[], MetaGradient]] = {}
    for name, closed_form in WAYS.items():
        engine: EngineName = "auto" if device.type == "cuda" else "vmap"
        steps[name] = partial(ours(work, torch.float32, device, engine, closed_form).meta_gradient, tasks)
        for _ in range(WARM_UPS):
            steps[name]()
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(TURNS):
        for name, step in steps.items():
            finish(device)
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            finish(device)
            found[name].append((time.perf_counter() - start) / STEPS * 1e3)
    return found, {name: kernels_of(step) for name, step in steps.items()} if device.type == "cuda" else {}


def kernels_of(step: Callable[[], MetaGradient]) -> int:
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    return sum(event.count for event in profiled.key_averages() if event.self_device_time_total > 0)


def errors(work: Work, device: torch.device) -> dict[str, float]:
    def flat(closed_form: bool, dtype: torch.dtype) -> Tensor:
        found = ours(work, dtype, device, "vmap", closed_form).meta_gradient(work.tasks(4, device, dtype))
        return torch.cat([g.double().flatten() for part in (found.theta, found.phi) for g in part.values()])

    expected = flat(False, torch.float64)
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        return {
            name: float((flat(closed_form, torch.float32) - expected).norm() / expected.norm())
            for name, closed_form in WAYS.items()
        }
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=device_of, default="cpu", help="cpu, or a CUDA device")
    parser.add_argument("--quick", action="store_true", help="two tasks of narrow networks, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("closed_form.json"))
    options = parser.parse_args()
    works = [replace(w, n_tasks=2, width=8) for w in WORKS] if options.quick else [*WORKS, WIDE]
    shown = Table(title="One outer gradient, ms; ratio with its range; float32's error")
    for column in ("work", *WAYS, "ratio", *(f"error of {name}" for name in WAYS)):
        shown.add_column(column)
    results: list[dict[str, Any]] = []
    for work in works:
        (times, kernels), off = timed(work, options.device), errors(work, options.device)
        ratios = sorted(a / b for a, b in zip(times["autograd"], times["closed forms"], strict=True))
        ms = {name: statistics.median(t) for name, t in times.items()}
        name = f"Conv4-32-256, prototypes, 60-way 1-shot, B={work.n_tasks}, 1 step" if work is WIDE else work.name
        found = {"ms": ms, "ratios": ratios, "kernels": kernels, "errors": off}
        results.append({"work": asdict(work), "name": name, **found})
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
        shown.add_row(name, *(f"{t:.2f}" for t in ms.values()), ratio, *(f"{e:.1e}" for e in off.values()))
    Console().print(shown)
    card = torch.cuda.get_device_name() if options.device.type == "cuda" else None
    settings = {"device": str(options.device), "card": card, "torch": torch.__version__}
    options.out.write_text(json.dumps({"settings": settings, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
