"""``compare --suite``: optimizers with one setting for all, on a fixed set of workloads of different kinds."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from upath import UPath

from metasgd import __version__
from metasgd.cli.comparing import progress_of
from metasgd.cli.seeds import unfit_seed
from metasgd.data.cache import default_cache_dir
from metasgd.errors import UserError, raise_problems, too_small
from metasgd.reporting.text import printable
from metasgd.runs.folders import checkpoint_file
from metasgd.runs.outputs import validate_folder
from metasgd.runs.storage import place_of, write_whole
from metasgd.runs.strict_json import as_bytes
from metasgd.supervised.comparison import Effort, Train
from metasgd.supervised.run_cache import EXAMPLES, cached_in
from metasgd.supervised.suite.contenders import LEARNED, LOSS_ONLY, OTHERS, REFERENCE, Contender, all_contenders
from metasgd.supervised.suite.cost import costs
from metasgd.supervised.suite.fingerprint import fingerprint
from metasgd.supervised.suite.report import as_csv, as_json, figures, loss_table, summary
from metasgd.supervised.suite.running import Rows, run_suite
from metasgd.supervised.suite.scores import outcome_of, scores
from metasgd.supervised.suite.workload import Workload
from metasgd.supervised.suite.workloads import SUITES
from metasgd.supervised.trainer import Candidate, SupervisedTrainer, Trace

NARROWEST = 150
"""Columns of a table at least."""
T = TypeVar("T")
log = logging.getLogger("metasgd")


@dataclass(frozen=True)
class CompareSuite:
    """Train a fixed set of workloads by optimizers with one setting for all of them, and by AdamW tuned on each.

    What has been trained is used again: a comparison that was stopped is resumed, and one that is done is extended by
    more seeds, contenders or workloads. Those whose package is missing are named and left out;
    ``pip install 'metasgd[suite]'`` has them all. The tuned AdamW, which ratios are to, always runs.

    Args:
        suite: ``small``, whose workloads nothing was chosen by, or ``choosing``, which is for that.
        config: all the options as YAML, which ``--config`` takes again.
        only: the workloads to use, as [letters_vit, brackets_gru] or letters_vit,brackets_gru; by default all.
        contenders: the optimizers to use, written likewise, beside those of ``further``; by default all.
        optimizer_ckpt: the checkpoint of the learned optimizer.
        further: more learned optimizers, by the name to print: their checkpoints.
        seeds: trainings of each optimizer that count, each with initial weights and batches of its own.
        trials: learning rates tried for what is tuned, a factor of √10 apart.
        most_trials: learning rates tried at most, where the best lies at the edge.
        timing_rounds: rounds in which the optimizers' steps are timed in turn, when all is trained; 0 for none.
        seed_everything: the seed of the search; those of the trainings that count follow it.
        cache_dir: the folder for drawn letters; by default the user's cache folder.
        save_dir: the folder of all runs.
        name: of the run; by default suite_ and the suite's name.
        trust_checkpoint: import any class that a checkpoint names, which runs code: only where you trust its maker.
            Without it, those of metasgd, torch, torchvision, lightning and timm are allowed.
    """

    suite: str
    config: str
    only: list[str] | str | None = None
    contenders: list[str] | str | None = None
    optimizer_ckpt: str = "scheduled_muon"
    further: dict[str, str] = field(default_factory=dict)
    seeds: int = 3
    trials: int = 5
    most_trials: int = 8
    timing_rounds: int = 10
    seed_everything: int = 0
    cache_dir: str | None = None
    save_dir: str = "runs"
    name: str | None = None
    trust_checkpoint: bool = False

    def run(self) -> None:
        """Train all, and write the tables and the curves.

        Raises:
            UserError: an option or a checkpoint cannot be used; before anything is trained.
        """
        self._validate_numbers()
        workloads = self._workloads()
        contenders, left_out = self._contenders()
        name = self.name or f"suite_{self.suite}"
        place = place_of(self.save_dir, "--save_dir")
        validate_folder(place / name / "version_0", "--save_dir and --name")
        for line in left_out:
            log.warning(line)
        folder = Path(self.cache_dir or default_cache_dir()).expanduser()
        trainers = {workload.name: workload.trainer(workload.data.examples(folder)) for workload in workloads}
        checkpoints = self._digests([contender.name for contender in contenders])
        whole, trainer_of = {}, {}
        for workload in workloads:
            for contender in contenders:
                trainer = trainers[workload.name]
                full = fingerprint(contender, workload, trainer.examples, checkpoints.get(contender.name))
                whole[contender.on(workload.name, workload.steps).name] = full
                trainer_of[full] = trainer

        def train(candidate: Candidate, lr: float, seed: int) -> Trace:
            return trainer_of[candidate.name].train(candidate, lr, seed)

        def cached(candidate: Candidate, lr: float, seed: int) -> Trace:
            return cache(replace(candidate, name=whole[candidate.name]), lr, seed)

        terms = {"suite": self.suite, "version": __version__, "torch": torch.__version__}
        cache = cached_in(place, name, terms, train)
        write_whole(cache.folder / "config.yaml", self.config.encode())
        if cache.traces:
            print(printable(f"resumes {cache.folder}: trainings done: {len(cache.traces)}"))
        rows = self._rows(cached, workloads, contenders)
        self._report(rows, cache.folder, workloads, contenders, trainers, left_out)

    def _validate_numbers(self) -> None:
        problems = too_small(
            ("seeds", self.seeds, 1),
            ("trials", self.trials, 1),
            ("timing_rounds", self.timing_rounds, 0),
            ("most_trials", self.most_trials, self.trials),
        )
        if self.trials % 2 == 0:
            problems.append(f"trials is {self.trials}: an odd number is needed")
        raise_problems([*problems, *unfit_seed(self.seed_everything, self.seeds)])

    def _workloads(self) -> list[Workload]:
        known = {workload.name: workload for workload in _named("--suite", [self.suite], SUITES)[0]}
        return _named("--only", _listed(self.only), known)

    def _checkpoints(self) -> dict[str, str]:
        taken = {LEARNED, LOSS_ONLY, *(contender.name for contender in OTHERS)} & set(self.further)
        raise_problems([f"--further has an optimizer of the name {name}, which is another's" for name in sorted(taken)])
        return {LEARNED: self.optimizer_ckpt, LOSS_ONLY: "optimizer_network_long", **self.further}

    def _contenders(self) -> tuple[list[Contender], list[str]]:
        """Those that can be had, and a line for each of the others."""
        known = all_contenders(self._checkpoints(), self.trust_checkpoint)
        found = _named("--contenders", _listed(self.contenders), known)
        # what is measured by, and what was asked for by an option of its own
        found += [known[name] for name in (*self.further, REFERENCE) if known[name] not in found]
        missing = {contender.name: contender.missing() for contender in found}
        return [c for c in found if missing[c.name] is None], [line for line in missing.values() if line is not None]

    def _digests(self, names: Sequence[str]) -> dict[str, str]:
        options = {LEARNED: "--optimizer_ckpt"}
        return {
            name: hashlib.sha256(checkpoint_file(path, options.get(name, f"--further.{name}")).read_bytes()).hexdigest()
            for name, path in self._checkpoints().items()
            if name in names
        }

    def _rows(self, train: Train, workloads: Sequence[Workload], contenders: Sequence[Contender]) -> Rows:
        first = self.seed_everything
        effort = Effort(range(first + 1, first + 1 + self.seeds), first, self.trials, self.most_trials)
        trainings = sum(self.seeds + (self.trials if c.tuned else 0) for c in contenders)
        with progress_of(len(workloads) * trainings) as done_with:
            return run_suite(train, workloads, contenders, effort, done_with)

    def _report(
        self,
        rows: Rows,
        folder: UPath,
        workloads: Sequence[Workload],
        contenders: Sequence[Contender],
        trainers: Mapping[str, SupervisedTrainer],
        left_out: list[str],
    ) -> None:
        """Files first: what is printed may be lost, as where the terminal is gone."""
        outcomes, cost = {}, {}
        for workload in workloads:
            own, trainer = rows[workload.name], trainers[workload.name]
            outcomes[workload.name] = {name: outcome_of(row, trainer.evaluated_at()) for name, row in own.items()}
            candidates = {c.name: (c.on(workload.name, workload.steps), own[c.name].lr) for c in contenders}
            if self.timing_rounds:
                cost[workload.name] = costs(trainer, candidates, self.timing_rounds, REFERENCE)
        scored = scores(outcomes, REFERENCE)
        entries = figures(rows, outcomes, cost)
        terms = {"suite": self.suite, "seeds": self.seeds, "trials": self.trials, "most_trials": self.most_trials}
        examples = _digests_of(trainers)
        described = {"workloads": {w.name: w.description for w in workloads}, "left_out": left_out, EXAMPLES: examples}
        found = as_json(rows, scored, entries, terms | described | {"checkpoints": self._checkpoints()})
        write_whole(folder / "results.json", as_bytes(found))
        write_whole(folder / "results.csv", as_csv(entries))
        console = Console(width=max(NARROWEST, Console().width), emoji=False)
        console.print(loss_table(outcomes, list(scored)))
        console.print(summary(scored, cost, f"suite {self.suite}"))
        console.print(printable(f"written to {folder}"), soft_wrap=True, markup=False)


def _digests_of(trainers: Mapping[str, SupervisedTrainer]) -> dict[str, dict[str, str]]:
    """Of every workload's examples, by split."""
    return {name: {s: e.digest for s, e in trainer.examples.items()} for name, trainer in trainers.items()}


def _listed(given: list[str] | str | None) -> list[str] | None:
    return [name.strip() for name in given.split(",")] if isinstance(given, str) else given


def _named(option: str, given: list[str] | None, known: Mapping[str, T]) -> list[T]:
    """What is named, each once; all there is if nothing is.

    Raises:
        UserError: a name is unknown, with those that are near, or nothing is named.
    """
    if given is None:
        return list(known.values())
    problems = []
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=3, cutoff=0.5)
            meant = f" Did you mean {' or '.join(near)}?" if near else ""
            problems.append(f"{option} has {name or 'an empty name'}: there is {', '.join(known)}.{meant}")
    raise_problems(problems)
    if not given:
        raise UserError(f"{option} is empty: leave it out for all, or name some of {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(given)]
