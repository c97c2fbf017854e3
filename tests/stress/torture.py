"""Kill a run at random moments by random signals, resume it each time, and compare it with one that ran through.

    python tests/stress/torture.py --kills 100 [--seed 0] [--json out.json]

Runs of the real command line on sinusoid tasks, with validations in between, drawn with and without workers. Each life
of a run ends by SIGKILL, SIGTERM or SIGINT: during its start or, more often, after it has taken its first outer step.
Once a run has come to its end, its weights, optimizer, schedule, best checkpoint and every point of its curves must be
those of the run that was never stopped, to the bit; then the next run begins. Leaves with 1 if one differs.

Lives are forked from a process that has imported torch already, since that takes longer than a life.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # nothing may have started a thread before the fork

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metasgd.cli.main import main as metasgd
from metasgd.runs.checkpoint_file import read_checkpoint

ROOT = Path(__file__).parents[2]
RUN = Path("runs") / "sinusoid" / "version_0"
STEPS = 300
COMMAND = [
    *("fit", "--config", str(ROOT / "configs" / "sinusoid.yaml"), "--trainer.accelerator", "cpu"),
    *("--trainer.max_steps", str(STEPS), "--trainer.val_check_interval", "50", "--trainer.log_every_n_steps", "1"),
    *("--trainer.enable_progress_bar", "false", "--data.val_tasks", "30", "--last_checkpoint.every_n_steps", "7"),
    *("--ckpt_path", "resume", "--trainer.logger.init_args.version", "0"),
]
EXIT = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGINT: 128 + signal.SIGINT}


def live(folder: Path, workers: int) -> int:
    """Start the command in ``folder``; the id of its process, which leads a group of its own."""
    pid = os.fork()
    if pid:
        return pid
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    os.chdir(folder)
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    code = 70  # of an error that nobody foresaw
    try:
        sys.argv = ["metasgd"]
        code = metasgd([*COMMAND, "--data.num_workers", str(workers)])
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 70
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(pid: int, within: float) -> int | None:
    """The exit code, or None if it lives on."""
    deadline = time.monotonic() + within
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def what_a_run_left(folder: Path) -> dict[str, Any]:
    """All that must be the same."""
    left: dict[str, Any] = {f"curve {tag}": points for tag, points in curves(folder / RUN).items()}
    for name in ("last", "best"):
        content = read_checkpoint(folder / RUN / "checkpoints" / f"{name}.ckpt")
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "metasgd_skipped"):
            left[f"{name}.ckpt {key}"] = content[key]
    left["files"] = sorted(p.name for p in (folder / RUN / "checkpoints").iterdir())
    return left


def same(a: Any, b: Any) -> bool:
    """Whether two nests of plain types and tensors are the same to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def one_life(folder: Path, chance: random.Random, kills: Counter[str], spared: bool) -> bool:
    """Let a run live until it is killed, or if it is spared, to its end; whether it came to its end."""
    workers = chance.randrange(2)
    if spared:
        code = ended(live(folder, workers), 600)
        if code != 0:
            raise SystemExit(f"the run left with {code}:\n{(folder / 'said.txt').read_text()[-3000:]}")
        return True
    before = set((folder / RUN).glob("events*")) if (folder / RUN).exists() else set()
    pid = live(folder, workers)
    try:
        return one_death(folder, pid, before, workers, chance, kills)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def one_death(
    folder: Path, pid: int, before: set[Path], workers: int, chance: random.Random, kills: Counter[str]
) -> bool:
    """Kill this life at a moment of chance, unless it comes to its end before; whether it did."""
    if chance.random() < 0.15:
        phase, moment = "start", chance.uniform(0, 2)
    else:
        phase, moment = "steps", chance.uniform(0, 1.5)
        # a file of events is there once the first outer step is to come
        while set((folder / RUN).glob("events*")) == before and ended(pid, 0.02) is None:
            pass
    code = ended(pid, moment)
    if code is None:
        number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        os.kill(pid, number)
        code = ended(pid, 60)
        # before the command has begun, a signal does what it does to any program
        if code not in (0, EXIT[number], -number):
            raise SystemExit(
                f"after {number.name} the run left with {code}:\n{(folder / 'said.txt').read_text()[-3000:]}"
            )
        kills[f"{number.name} in its {phase}, {workers} workers"] += code != 0
    elif code:
        raise SystemExit(f"the run left with {code}:\n{(folder / 'said.txt').read_text()[-3000:]}")
    return code == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    # asked to stop, it takes the life at work with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chance = random.Random(options.seed)
    kills: Counter[str] = Counter()
    lives, ends, differing = 0, 0, 0
    with tempfile.TemporaryDirectory() as root:
        whole = Path(root) / "whole"
        whole.mkdir()
        if ended(live(whole, workers=0), 600) != 0:
            raise SystemExit(f"the run to compare with failed:\n{(whole / 'said.txt').read_text()}")
        expected = what_a_run_left(whole)
        while sum(kills.values()) < options.kills or (Path(root) / f"run{ends}").exists():
            spared = sum(kills.values()) >= options.kills  # it may finish what it has begun
            folder = Path(root) / f"run{ends}"
            folder.mkdir(exist_ok=True)
            lives += 1
            if not one_life(folder, chance, kills, spared):
                continue
            found = what_a_run_left(folder)
            wrong = [key for key in expected | found if not same(expected.get(key), found.get(key))]
            differing += bool(wrong)
            print(
                f"run {ends}: {sum(kills.values())} kills so far; differs in: {', '.join(wrong) or 'nothing'}",
                flush=True,
            )
            ends += 1
    for kind, n in sorted(kills.items()):
        print(f"{n:5d} × {kind}")
    print(
        f"{sum(kills.values())} kills of {ends} runs of {STEPS} outer steps in {lives} lives: {differing} runs differ"
    )
    if options.json:
        report = {"kills": dict(kills), "runs": ends, "lives": lives, "differing": differing, "seed": options.seed}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(differing > 0)


if __name__ == "__main__":
    main()
