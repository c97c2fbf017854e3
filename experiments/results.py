"""Train, test and tabulate the experiments of ``experiments.yaml``.

python experiments/results.py run NAME…    trains, or resumes where it stopped, tests, and records
python experiments/results.py list         the experiments, and which are recorded
python experiments/results.py tables       makes docs/results.md, and the tables of README.md and docs/optimizer.md
"""

import argparse
import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from goals import goals
from records import load, save
from results_tables import HEAD, document, leaders, summary
from suite_table import suite_section
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from upath import UPath

from metasgd.runs.folders import runs_of

ROOT = Path(__file__).parents[1]
EXPERIMENTS = Path(__file__).with_name("experiments.yaml")
RUNS = ROOT / "runs"


@dataclass(frozen=True)
class Experiment:
    """One row of a table: a training run, and the tests of its best checkpoint; or the tests of given checkpoints."""

    name: str
    table: str
    row: str
    fit: str
    tests: dict[str, str]
    published: dict[str, str]
    seed: int
    same_as: str | None  # the experiment whose run is tested here once more
    ckpt_path: str | None = None  # what is tested, if nothing is trained; several with commas between

    @property
    def config(self) -> str:
        """The configuration file that it is trained by."""
        return re.search(r"--config (\S+)", self.fit)[1]

    def fit_command(self, *more: str) -> list[str]:
        seeds = ["--seed_everything", str(self.seed), "--data.seed", str(self.seed)] if self.seed else []
        named = ["--trainer.logger.init_args.name", self.same_as or self.name]
        return ["python", "-m", "metasgd", "fit", *shlex.split(self.fit), *seeds, *named, *more]

    def test_command(self, column: str) -> list[str]:
        # every seed's learner is evaluated on the same tasks: those of data.seed 0
        elsewhere = "--config" in self.tests[column]
        kept = r"--model\.(?!outer)\S+ \S+" if elsewhere else r"--(?:model\.(?!outer)|data\.source)\S+ \S+"
        of_training = " ".join(re.findall(kept, self.fit))
        # what comes later counts, and a configuration must come before the options that change it
        said = (
            [self.tests[column], of_training]
            if elsewhere
            else ["--config", self.config, of_training, self.tests[column]]
        )
        options = shlex.split(" ".join(said))
        named = ["--trainer.logger.init_args.name", self.same_as or self.name]
        return ["python", "-m", "metasgd", "test", *options, *named, "--ckpt_path", self.ckpt_path or "best"]


@dataclass(frozen=True)
class Folders:
    """One-shot classification of folders of pictures by ``adapt``: one command of ``one_shot_folders.py``."""

    name: str
    row: str
    folders: str


@dataclass(frozen=True)
class Comparison:
    """Ordinary trainings by several optimizers: one ``compare`` command, with its options."""

    name: str
    row: str
    compare: str


def experiments(text: str | None = None) -> dict[str, Experiment | Comparison | Folders]:
    """What experiments.yaml says, or another text of its form."""
    found: dict[str, Experiment | Comparison | Folders] = {}
    for name, settings in yaml.safe_load(text or EXPERIMENTS.read_text()).items():
        if "compare" in settings:
            found[name] = Comparison(name, **settings)
            continue
        if "folders" in settings:
            found[name] = Folders(name, **settings)
            continue
        for seed in settings.pop("seeds", [0]):
            own = name.format(seed=seed)
            fields: dict[str, Any] = {"published": {}, "same_as": None, **settings, "name": own, "seed": seed}
            if fields["same_as"]:
                fields["same_as"] = fields["same_as"].format(seed=seed)
            found[own] = Experiment(**fields)
    return found


def run(experiment: Experiment, extra: list[str], record_only: bool, runs: Path = RUNS) -> None:
    """Train, test and record; ``extra`` are options of every command, ``runs`` is where these write."""
    folder = runs / (experiment.same_as or experiment.name) / "version_0"
    if not record_only and experiment.same_as is None and experiment.ckpt_path is None:
        resume = ["--ckpt_path", "last"] if (folder / "checkpoints" / "last.ckpt").is_file() else []
        execute(experiment.fit_command(*resume, *extra))
    tests, started = {}, time.monotonic()
    for column in experiment.tests:
        command = experiment.test_command(column)
        execute([*command, *extra])
        if experiment.ckpt_path is not None:  # which are of no run of this name: each test is a new one
            folder = Path(str(runs_of(UPath(runs), experiment.name)[0].folder))
        results = json.loads((folder / "results.json").read_text())
        tasks = (folder / "tasks.csv").read_text().split("\n")[1:-1]
        metric = results["protocol"]["metric"]
        tests[column] = {
            "command": shlex.join(command),
            "metric": metric,
            "mean": results[f"test/{metric}"],
            "ci95": results[f"test/{metric}_ci95"],
            "n_tasks": results["n_tasks"],
            "by_inner_step": results["by_inner_step"]["metric"],
            "by_inner_step_ci95": results["by_inner_step"]["metric_ci95"],
            "protocol": results["protocol"]["in_words"],
            "adapts": results["protocol"]["adapts"],
            "outer_steps_of_checkpoint": results["protocol"]["outer_steps"],
            # enough to compare learners task by task, and to see whether a checkpoint is what its card says
            "first_tasks": [float(row.split(",")[1]) for row in tasks[:4000]],
        }
    if experiment.ckpt_path is not None:
        made = {
            "fit": "",
            "evaluated": experiment.ckpt_path,
            "outer_steps": max(test["outer_steps_of_checkpoint"] for test in tests.values()),
            "seconds": round(time.monotonic() - started),
        }
    else:
        last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        made = {
            "fit": shlex.join(experiment.fit_command()),
            "outer_steps": int(last["state_dict"]["outer_steps"]),
            "seconds": round(seconds(folder)),
        }
    record = {
        "name": experiment.name,
        "table": experiment.table,
        "row": experiment.row,
        **made,
        "seed": experiment.seed,
        "machine": machine(),
        "published": experiment.published,
        "tests": tests,
    }
    save(record)


def classify_folders(folders: Folders) -> None:
    """Classify folders of pictures by ``adapt``, and record the shares that it predicts right."""
    file = RUNS / f"{folders.name}.json"
    file.parent.mkdir(exist_ok=True)
    command = ["python", "experiments/one_shot_folders.py", *shlex.split(folders.folders)]
    started = time.monotonic()
    execute([*command, "--json", str(file)], bar=[])
    save(
        {
            "name": folders.name,
            "table": "one-shot-folders",
            "row": folders.row,
            "command": shlex.join(command),
            "machine": machine(),
            "seconds": round(time.monotonic() - started),
            **json.loads(file.read_text()),
        }
    )


def compare(comparison: Comparison, extra: list[str]) -> None:
    """Run a comparison; record its table, and its figure in docs/images."""
    command = ["python", "-m", "metasgd", "compare", *shlex.split(comparison.compare), "--name", comparison.name]
    execute([*command, *extra], bar=[])
    folder = runs_of(UPath(RUNS), comparison.name)[0].folder
    found = json.loads((folder / "results.json").read_text())
    if "--suite" in command:
        save(
            {
                "name": comparison.name,
                "table": "suite",
                "row": comparison.row,
                "command": shlex.join(command),
                "machine": machine(),
                **{part: found[part] for part in ("terms", "scores")},
                "rows": [{k: v for k, v in row.items() if k != "traces"} for row in found["rows"]],
            }
        )
        return
    shutil.copy(folder / "comparison.png", ROOT / "docs" / "images" / f"{comparison.name}.png")
    save(
        {
            "name": comparison.name,
            "table": "ordinary",
            "row": comparison.row,
            "command": shlex.join(command),
            "machine": machine(),
            "metric": found["terms"]["metric"],
            "terms": found["terms"]["in_words"],
            "rows": [{k: v for k, v in row.items() if k != "traces"} for row in found["rows"]],
        }
    )


def execute(command: list[str], bar: Sequence[str] = ("--trainer.enable_progress_bar", "false")) -> None:
    print("+", shlex.join(command), flush=True)
    subprocess.run([sys.executable, *command[1:], *bar], cwd=ROOT, check=True)


def seconds(folder: Path) -> float:
    """The time from the first to the last logged step, summed over the processes that a run took."""
    total = 0.0
    for events in folder.glob("events.out.tfevents.*"):
        accumulator = EventAccumulator(str(events), size_guidance={"scalars": 0}).Reload()
        if "train/loss" in accumulator.Tags()["scalars"]:
            times = [e.wall_time for e in accumulator.Scalars("train/loss")]
            total += times[-1] - times[0]
    return total


def machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if platform.system() == "Linux" else None
    )
    return f"{model[1] if model else platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    commands.add_parser("tables")
    running = commands.add_parser("run")
    running.add_argument("names", nargs="+", metavar="NAME")
    running.add_argument("--record-only", action="store_true", help="test and record what has been trained")
    options, extra = parser.parse_known_args()  # further options go to both fit and test, as --data.root DIR
    known, recorded = experiments(), load()
    if options.command == "list":
        for name, experiment in known.items():
            print("recorded" if name in recorded else "        ", name, "|", experiment.row)
    elif options.command == "tables":
        # what a row and a table are called is said where the experiments are, and may change
        records = [
            recorded[name] | ({"row": one.row, "table": one.table} if isinstance(one, Experiment) else {"row": one.row})
            for name, one in known.items()
            if name in recorded
        ]
        records += [record for record in recorded.values() if record["table"] == "far-pictures"]
        text = document(records).replace(HEAD, HEAD + goals(records)) + suite_section(records)
        (ROOT / "docs" / "results.md").write_text(text)
        for name, table in (("README.md", summary(records)), ("docs/optimizer.md", leaders(records))):
            page = ROOT / name
            before, after = re.split(r"(?s)(?<=<!-- results -->\n).*(?=<!-- end of results -->)", page.read_text())
            page.write_text(f"{before}\n{table}\n{after}")
    else:
        for name in options.names:
            if isinstance(experiment := known[name], Comparison):
                compare(experiment, extra)
            elif isinstance(experiment, Folders):
                classify_folders(experiment)
            else:
                run(experiment, extra, options.record_only)


if __name__ == "__main__":
    main()
