"""Peers, fit, a training, scaling, the optimizer's step and tests on a GPU, each within a time limit, and the goals.

    benchmarks/gpu.sh --root data/omniglot --out gpu_records

A part that fails or takes too long does not stop the others. Peers that are not installed are left out; so are those
whose gradient is another, which a line of the part's log says. The last lines say PASS, FAIL or NOT MEASURED for each
goal; ``summary.json`` has the same. ``--device cpu --quick`` runs the same parts in little, to see that they run.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
PEERS = {"higher": "higher", "torchopt": "TorchOpt", "metalearn": "parallel-metalearn"}
GOALS = {
    "Conv4-64, 5-way 1-shot, B=32, 1 step": (50, 6.0),
    "Conv4-64, 5-way 1-shot, B=32, 5 steps": (60, 25.0),
    "Conv4-64, 20-way 1-shot, B=8, 1 step": (15, None),
    "MLP 1-40-40-1, 5-shot, B=25, 1 step": (100, 0.5),
}
"""By work: at least so many times the fastest peer, at most so many milliseconds."""
FIT_MS, FIT_RATIO, MEMORY_RATIO = 10, 1.2, 1.5
ACCELERATORS = {"cuda": "gpu", "cpu": "cpu"}
"""The Trainer's names of the devices."""
LEARN2LEARN = Path("~/.cache/metasgd/benchmarks/learn2learn-0.2.0").expanduser()


def contenders() -> list[str]:
    """metasgd and the peers that are there."""
    found = ["metasgd", *(name for module, name in PEERS.items() if importlib.util.find_spec(module))]
    return [*found, "learn2learn"] if LEARN2LEARN.is_dir() else found


def parts(options: argparse.Namespace) -> dict[str, tuple[list[str], int]]:
    """The command of each part, and the seconds it may take."""
    out, device = options.out, ["--device", options.device]
    short = ["--seconds", "0.2"] if options.quick else ["--seconds", "3"]
    peers = [str(HERE / "peers.py"), *device, *short, "--contenders", *contenders()]
    scaling = [str(HERE / "scaling.py"), *device, *short, "--varied", "MLP n_tasks"]
    rounds = ["--rounds", "1" if options.quick else "5"]
    optimizer = [str(HERE / "optimizer_step.py"), *device, *rounds, "--json", f"{out}/optimizer.json"]
    found: dict[str, tuple[list[str], int]] = {}
    steps = ["4", "2", "4"] if options.quick else ["2400", "400", "200"]
    config = ROOT / "configs" / ("sinusoid.yaml" if options.quick else "omniglot.yaml")
    training = ["fit", "--config", str(config)]  # before what changes it
    training += ["--trainer.max_steps", steps[0], "--trainer.val_check_interval", steps[1]]
    training += ["--data.val_tasks", steps[2], "--trainer.logger.init_args.save_dir", f"{out}/runs"]
    training += ["--trainer.accelerator", ACCELERATORS[options.device]]
    training += ["--trainer.enable_progress_bar", "false"]
    if not options.quick:
        training += ["--data.root", str(options.root), "--model.outer.zero_steps_until", "1700"]
    works = {"mlp": (["1", "--n_tasks", "25"], 50)}
    if not options.quick:
        works = {"5w1s": (["1", "5"], 130), "20w1s": (["1"], 50), **works}
        scaling += ["inner_steps", "n_tasks"]
    longer = 4 if options.quick else 1  # a CPU takes longer to begin
    for work, (inner_steps, limit) in works.items():
        command = [*peers, "--works", work, "--inner_steps", *inner_steps, "--out", f"{out}/peers_{work}.json"]
        found[f"peers_{work}"] = (command, limit * longer)
    found["fit"] = ([*fit_command(options), "--out", f"{out}/fit.json"], 45 * longer)
    found["training"] = (["-m", "metasgd", *training], 70 * longer)
    found["scaling"] = ([*scaling, "--out", f"{out}/scaling.json"], 70 * longer)
    found["optimizer"] = (optimizer, 45 * longer)
    if not options.quick:
        found["tests"] = (["-m", "pytest", "-q", str(ROOT / "tests" / "gpu")], 130)
    return found


def fit_command(options: argparse.Namespace) -> list[str]:
    """``fit`` against the bare step: 60 ways, 32 to 256 filters, distorted drawings."""
    command = [str(HERE / "overhead.py"), "--clock", "wall", "--trainer.enable_progress_bar", "false"]
    command += ["--trainer.accelerator", ACCELERATORS[options.device]]
    if options.quick:
        return [*command, "--rounds", "1", "--seconds", "1", "--configs", str(ROOT / "configs" / "sinusoid.yaml")]
    command += ["--rounds", "3", "--seconds", "15", "--data.root", str(options.root), "--data.num_workers", "2"]
    command += ["--configs", str(ROOT / "experiments" / "configs" / "omniglot_20w1s.yaml")]
    command += ["--data.n_way", "60", "--data.meta_batch_size", "2", "--model.network.init_args.features", "normalised"]
    command += ["--model.network.init_args.width", "[32,64,128,256]", "--data.source.init_args.distortion", "1"]
    return command


def run(command: list[str], limit: float) -> tuple[int | None, float, str]:
    """The exit code, None where it took too long; seconds; and the end of what was said."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    code: int | None = None
    try:
        said, _ = process.communicate(timeout=limit)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
    return code, time.perf_counter() - start, said[-4000:]


def works(out: Path) -> dict[str, dict[str, Any]]:
    """What was measured beside the peers, by work."""
    records = (json.loads(path.read_text())["results"] for path in out.glob("peers_*.json"))
    return {result["name"]: result["contenders"] for results in records for result in results}


def accuracies(out: Path, started: float) -> list[tuple[float, float]]:
    """Seconds from the start of the training, start-up included, and the validation accuracy then."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = []
    for folder in sorted({path.parent for path in (out / "runs").rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(folder)).Reload()
        if "val/accuracy" in events.Tags()["scalars"]:
            found += [(e.wall_time - started, e.value) for e in events.Scalars("val/accuracy")]
    return [(seconds, accuracy) for seconds, accuracy in sorted(found) if seconds > 0]


def verdicts(out: Path, codes: dict[str, int | None], reached: list[tuple[float, float]]) -> list[tuple[str, str]]:
    """Of each goal: PASS, FAIL or NOT MEASURED, and the figures."""
    lines = [("PASS" if code == 0 else "FAIL", f"{part} runs (exit code {code})") for part, code in codes.items()]
    measured = works(out)
    for name, (ratio, most) in GOALS.items():
        if name not in measured:
            lines.append(("NOT MEASURED", name))
            continue
        own = measured[name]
        ms = own["metasgd"]["seconds"] * 1e3
        rivals = {peer: c["ratio"] for peer, c in own.items() if peer != "metasgd"}
        if most is not None:
            lines.append(("PASS" if ms <= most else "FAIL", f"{name}: {ms:.2f} ms, at most {most} ms"))
        if rivals:
            peer = min(rivals, key=rivals.__getitem__)
            said = f"{name}: {rivals[peer]:.1f} times {peer}, at least {ratio}"
            lines.append(("PASS" if rivals[peer] >= ratio else "FAIL", said))
        else:
            lines.append(("NOT MEASURED", f"{name}: no peer is installed"))
    lines += [*verdicts_of_fit(out), *verdicts_of_memory(out)]
    for target, most in ((0.95, None), (0.98, 60)):
        seconds = next((s for s, accuracy in reached if accuracy >= target), None)
        found = f"Omniglot 5-way 1-shot to {target:.0%}: " + ("not reached" if seconds is None else f"{seconds:.0f} s")
        good = seconds is not None and (most is None or seconds < most)
        lines.append(("PASS" if good else "FAIL" if reached else "NOT MEASURED", found))
    return lines


def verdicts_of_fit(out: Path) -> list[tuple[str, str]]:
    """Whether an outer step of ``fit`` takes at most 10 ms, and at most 1.2 times the bare step."""
    name = "fit, 60-way, B=2, 32 to 256 filters"
    record = out / "fit.json"
    found = json.loads(record.read_text())["results"] if record.is_file() else []
    if not found or found[0]["config"] == "sinusoid":
        return [("NOT MEASURED", name)]
    ms, ratio = found[0]["seconds"]["fit"] * 1e3, found[0]["ratios"]["fit"]["median"]
    return [
        ("PASS" if ms <= FIT_MS else "FAIL", f"{name}: {ms:.2f} ms an outer step, at most {FIT_MS} ms"),
        ("PASS" if ratio <= FIT_RATIO else "FAIL", f"{name}: {ratio:.2f} times the bare step, at most {FIT_RATIO}"),
    ]


def verdicts_of_memory(out: Path) -> list[tuple[str, str]]:
    """Whether the most inner steps take at most 1.5 times the memory of one."""
    record = out / "scaling.json"
    found = json.loads(record.read_text())["results"] if record.is_file() else []
    peaks = {r["work"]["inner_steps"]: r["peak_bytes"] for r in found if r["varied"] == "inner_steps"}
    if len(peaks) < 2:
        return [("NOT MEASURED", "memory by inner steps")]
    most, least = max(peaks), min(peaks)
    ratio = peaks[most] / peaks[least]
    said = f"memory of {most} inner steps: {ratio:.2f} times that of {least}, at most {MEMORY_RATIO}"
    return [("PASS" if ratio <= MEMORY_RATIO else "FAIL", said)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--root", type=Path, default=Path("data/omniglot"), help="the folder of Omniglot's archives")
    parser.add_argument("--out", type=Path, default=Path("gpu_records"), help="the folder for the records")
    parser.add_argument("--parts", nargs="+", help="these alone, in this order, such as peers_20w1s fit tests")
    parser.add_argument("--quick", action="store_true", help="the same in little")
    options = parser.parse_args()
    everything = chosen = parts(options)
    if unknown := set(options.parts or []) - set(chosen):
        parser.error(f"--parts has {', '.join(sorted(unknown))}: use some of {', '.join(chosen)}")
    if options.parts:
        chosen = {part: chosen[part] for part in options.parts}
    options.out.mkdir(parents=True, exist_ok=True)
    for part in everything:  # an earlier record would pass for what is measured now
        (options.out / f"{part}.json").unlink(missing_ok=True)
    codes: dict[str, int | None] = {}
    reached: list[tuple[float, float]] = []
    for part, (command, limit) in chosen.items():
        started = time.time()
        codes[part], seconds, said = run(command, limit)
        (options.out / f"{part}.log").write_text(said)
        print(f"{part}: {seconds:.0f} s, exit code {codes[part]}", flush=True)
        if part == "training" and not options.quick:
            reached = accuracies(options.out, started)
    lines = verdicts(options.out, codes, reached)
    (options.out / "summary.json").write_text(json.dumps({"goals": lines, "validated": reached}, indent=1) + "\n")
    print("\n".join(f"{verdict}  {said}" for verdict, said in lines))


if __name__ == "__main__":
    main()
