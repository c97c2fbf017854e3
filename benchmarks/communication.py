"""What an outer step computes and sends, and how far it would scale: arithmetic, with its inputs beside it.

    python benchmarks/communication.py [--tflops 10] [--gbytes 20] [--latency 10] [--json FILE]

θ, φ and the operations of one task's meta-gradient are counted (by torch's own counter); the speed of a device and of
the network are taken from the command line. Each of p devices computes B/p tasks, then one all-reduce of the
4 (|θ| + |φ|) bytes follows, by a tree:

    t(p) = (B/p) · operations / speed + [p > 1] · (2 log2(p) · latency + 2 · bytes / bandwidth)

A prediction, not a measurement. The speed is what a device reaches on this work, not what its maker prints: small
images and few tasks reach little of that. Each column keeps B tasks per device, so B grows with p.
"""

import argparse
import json
import logging
import math
import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from metasgd.cli.app import MetaSGDCLI
from metasgd.episode import Episode
from metasgd.meta.meta_gradient import meta_gradient
from metasgd.training.callbacks.progress import quieten

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = ("sinusoid", "omniglot", "omniglot_20w5s")
DEVICES = (2, 8, 32, 128, 1024)
TASKS_PER_DEVICE = (1, 4, 32)


class Built(MetaSGDCLI):
    """A configuration built as ``fit`` builds it, and not run."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing."""


def counted(name: str) -> dict[str, int]:
    """θ and φ of a configuration, and the operations of one task's meta-gradient."""
    cli = Built(["fit", "--config", str(CONFIGS / f"{name}.yaml"), "--trainer.accelerator", "cpu"])
    module, shape = cli.model, cli.datamodule.train_shapes[0]
    inputs = getattr(module.network, "image_shape", (1,))

    def examples(per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(1, shape.n_way * per_class, *inputs)
        if shape.n_way == 1:
            return x, torch.randn(1, per_class, 1)
        return x, torch.arange(shape.n_way).repeat_interleave(per_class)[None]

    classes, index = torch.zeros(1, shape.n_way, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    task = Episode(*examples(shape.k_shot), *examples(shape.n_query), classes, index)
    with FlopCounterMode(display=False) as counter:
        meta_gradient(module.config, dict(module.network.named_parameters()), task, module.inner_steps)
    return {
        "theta": sum(p.numel() for p in module.network.parameters()),
        "phi": sum(p.numel() for p in module.update_rule.parameters()),
        "operations_per_task": counter.get_total_flops(),
    }


def all_reduce_seconds(n_bytes: int, devices: int, latency: float, bandwidth: float) -> float:
    return 2 * math.log2(devices) * latency + 2 * n_bytes / bandwidth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tflops", type=float, default=10, help="what a device reaches, 10^12 operations per second")
    parser.add_argument(
        "--gbytes", type=float, default=20, help="the network between two devices, 10^9 bytes per second"
    )
    parser.add_argument("--latency", type=float, default=10, help="of one message, microseconds")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sys.argv[1:] = []  # they are no options of the command line that builds the configurations
    quieten()
    logging.getLogger("lightning").setLevel(logging.WARNING)
    speed, bandwidth, latency = options.tflops * 1e12, options.gbytes * 1e9, options.latency * 1e-6
    print(f"assumed: {options.tflops} TFLOP/s, {options.gbytes} GB/s, {options.latency} us; efficiency in %")
    columns = "".join(f"{f'p={p}':>8}" for p in DEVICES)
    print(f"{'config':<16}{'θ + φ':>10}{'KiB':>7}{'MFLOP/task':>12}{'tasks/device':>14}{'compute':>12}{columns}")
    found = {}
    for name in NAMES:
        counts = counted(name)
        n_bytes = 4 * (counts["theta"] + counts["phi"])
        rows = {}
        for tasks in TASKS_PER_DEVICE:
            compute = tasks * counts["operations_per_task"] / speed
            sends = [all_reduce_seconds(n_bytes, p, latency, bandwidth) for p in DEVICES]
            rows[tasks] = [compute / (compute + send) for send in sends]
            print(
                f"{name:<16}{counts['theta'] + counts['phi']:>10,}{n_bytes / 1024:>7.0f}"
                f"{counts['operations_per_task'] / 1e6:>12.1f}{tasks:>14}{compute * 1e6:>9.0f} us"
                + "".join(f"{100 * e:>8.0f}" for e in rows[tasks])
            )
        found[name] = counts | {"bytes": n_bytes, "efficiency_by_tasks_per_device": rows}
    if options.json:
        options.json.write_text(json.dumps({"assumed": vars(options) | {"json": None}, "found": found}, indent=2))


if __name__ == "__main__":
    main()
