"""The pieces of ``gpu_records.yaml``: each trained for its share of the time, tested, and recorded as it ends.

    experiments/gpu_records.sh [--root data/omniglot] [--out gpu_records/omniglot] [--minutes 10] [--quick]

How many outer steps fit into a piece's share is measured once by a training of PROBE seconds and written down, so
that a piece that is resumed ends with the same bits, and its schedule reaches its end. Ends with a PASS or FAIL line
for each of the goals, and exit code 1 where one failed.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import records
import torch
import yaml
from goals import COLUMNS as CELLS
from goals import GOALS, WITHIN
from results import ROOT, Experiment, execute, experiments, run
from upath import UPath

from metasgd.runs.folders import runs_of

PIECES = Path(__file__).with_name("gpu_records.yaml")
PROBE = 12
"""Seconds of training by which a piece's outer steps are measured."""
BESIDE = 330
"""Seconds beside the trainings: starts of processes, probes, tests."""
ALPHABET_GOAL = 92.0
QUICK = (
    *("--trainer.val_check_interval", "2", "--data.val_tasks", "4", "--data.test_tasks", "4"),
    *("--data.n_way", "3", "--data.meta_batch_size", "1", "--trainer.accelerator", "cpu"),
)


def outer_steps(piece: Experiment, seconds: float, out: Path, options: list[str]) -> int:
    """How many fit into the seconds, measured once."""
    written = out / f"{piece.name}.steps"
    if not written.is_file():
        named = ["--trainer.logger.init_args.name", f"{piece.name}-probe"]
        limits = ["--trainer.max_time", f"00:00:00:{PROBE:02d}", "--trainer.max_steps", "100000"]
        without = ["--trainer.val_check_interval", "100000", "--data.val_tasks", "2"]
        execute([*piece.fit_command(*options), *named, *limits, *without])
        probe = Path(str(runs_of(UPath(out / "runs"), f"{piece.name}-probe")[0].folder))
        last = torch.load(probe / "checkpoints" / "last.ckpt", weights_only=True)
        reached = int(last["state_dict"]["outer_steps"])
        written.write_text(str(max(20, round(reached / PROBE * seconds))))
    return int(written.read_text())


def report(found: dict[str, records.Record]) -> bool:
    """Print a line for each goal; whether all are met."""
    met = True
    for name, kind in (("gpu-wider", "one model"), ("gpu-ensemble", "several models")):
        for column, goal in zip(CELLS, GOALS[kind], strict=True):
            met &= line(found, name, column, goal)
    return met & line(found, "gpu-within-alphabet", WITHIN, ALPHABET_GOAL)


def line(found: dict[str, records.Record], name: str, column: str, goal: float) -> bool:
    test = found[name]["tests"].get(column) if name in found else None
    if test is None:
        print(f"FAIL {name}, {column}: not recorded")
        return False
    value, half = 100 * test["mean"], 100 * test["ci95"]
    verdict = "PASS" if value >= goal else "FAIL"
    print(f"{verdict} {name}, {column}: {value:.2f} ± {half:.2f}, goal {goal:.2f}")
    return bool(value >= goal)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT / "data" / "omniglot")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0, help="of all of it together")
    parser.add_argument("--quick", action="store_true", help="to the end of it on a CPU, on budgets that teach nothing")
    options = parser.parse_args()
    if not options.quick and not torch.cuda.is_available():
        print("there is no GPU here: --quick runs on a CPU", file=sys.stderr)
        return 2
    out = (options.out or ROOT / "gpu_records" / ("quick" if options.quick else "omniglot")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    records.FOLDER = out / "records"
    text = PIECES.read_text().replace("RUNS/", f"{out / 'runs'}/")
    settings = yaml.safe_load(text)
    shares = {name: one.pop("share") for name, one in settings.items()}
    common = ["--data.root", str(options.root.resolve()), "--trainer.logger.init_args.save_dir", str(out / "runs")]
    common += QUICK if options.quick else ("--trainer.accelerator", "gpu", "--trainer.devices", "1")
    training = max(60.0, 60 * options.minutes - BESIDE)
    for name, piece in experiments(yaml.safe_dump(settings, sort_keys=False)).items():
        assert isinstance(piece, Experiment)
        if name in records.load():
            print(f"recorded: {name}", flush=True)
            continue
        if options.quick:
            piece = replace(piece, tests=dict(list(piece.tests.items())[:1]))
        extra = list(common)
        if piece.ckpt_path is None:
            steps = 4 if options.quick else outer_steps(piece, training * shares[name], out, common)
            extra += ["--trainer.max_steps", str(steps)]
            extra += [] if options.quick else ["--trainer.val_check_interval", str(max(1, steps // 4))]
        run(piece, extra, record_only=False, runs=out / "runs")
    found = records.load()
    (out / "summary.json").write_text(
        json.dumps({n: {c: [t["mean"], t["ci95"]] for c, t in r["tests"].items()} for n, r in found.items()}, indent=1)
    )
    met = report(found)
    if options.quick:
        print("to its end: what stands above says nothing of the goals on these budgets")
        return 0
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
