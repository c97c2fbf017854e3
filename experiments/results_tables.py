"""docs/results.md out of the records in experiments/records: nothing in it is typed by hand but the words."""

import math
import re
from collections.abc import Iterable
from statistics import mean, stdev
from typing import Any

Record = dict[str, Any]

HEAD = """# Results

Made by `python experiments/results.py tables` from the records in `experiments/records`, which
`python experiments/results.py run NAME` writes. Every figure is a mean over test tasks of classes (or curves) never
trained on, ± the half-width of its 95 % confidence interval, from one checkpoint, chosen on the validation tasks.
Published figures stand in brackets.
"""
SECTIONS = {
    "sinusoid": (
        "Sinusoid regression",
        "Mean squared error after one inner step on 10,000 curves of 100 query points, by the number of support points;"
        " in brackets the figures of Li et al. 2017, table 1. Meta-trained for 60,000 outer steps of 4 curves. MAML's"
        " rate is 0.01, fixed.",
    ),
    "navigation": (
        "2-D navigation",
        "Mean return on tasks never trained on, of 20 trajectories each: of 600 tasks after one inner step, as the"
        " learners were meta-trained with, and of 200 elsewhere. The goal is drawn from the unit square, the start"
        " is its centre, the reward minus the squared distance, 100 steps at most. 50 outer steps of 20 tasks, each"
        " of three passes of PPO by Adam. Meta-SGD's rates start at 0.1, which is MAML's published rate. Of 0.1,"
        " 0.3 and 1 it is 0.3 that does best for MAML on 100 validation tasks of seed 0, level with Meta-SGD, which"
        " does as well from 0.1 as from 0.3: what learned rates save here is the search for one. The last column"
        " tests the same policies by another reward, minus the distance itself, that of Li et al. 2017; in brackets"
        " the figures of their table 4, fixed start position, which were not read in the paper but in two summaries"
        " that agree. The two are not one experiment: there policies were trained by that reward too, with 100"
        " outer steps of TRPO, and where an episode ends and how widely policies act at first, on which a return"
        " depends, was not read.",
    ),
    "navigation-drawn": (
        "2-D navigation, start drawn as well",
        "The second setting of Li et al. 2017: each task has its own start, drawn from the unit square. 200 tasks,"
        " and 600 of Meta-SGD after one step; all else is as above; in brackets the figures of their table 4, varying"
        " start position.",
    ),
    "omniglot": (
        "Omniglot",
        "Accuracy in % on 1,000 tasks of the 423 test characters, after one inner step (of two rows 4,000 at 5-way"
        " 5-shot, for a narrower difference); in brackets the figures of Li et al. 2017, table 2."
        " Protocol: 15 queries a class, transductive (BatchNorm normalises the query set by its"
        " own statistics), as published; in the rows that say so, as many queries a class as shots (on 4,000 tasks of"
        " 5 ways, 2,000 of 20), as in the code published with MAML, where these statistics are of a small set with each"
        " class in equal parts. That code also"
        " rotates each of a task's test characters by a multiple of 90° at random, and so do the rows that say that:"
        " those that resemble one another then mostly come in different rotations. A learner with the"
        " class-agnostic head and one inner step, as all of these that say nothing of what adapts, tells"
        " classes by a learned dot product with the support set's features: the body does not adapt."
        " Normalised features, all of one length, make it a cosine. The two of prototypes, of one seed each,"
        " start from the body of 32 to 256 filters: learned rates bring what they were trained for, 20-way"
        " 5-shot, and take from the other three columns. The body of 64 to 512 filters was trained in three minutes of"
        " a GPU; rates that are learned slowly on it, on tasks of four shapes, neither bring nor take: on 400"
        " validation tasks they are 0.01 to 0.03 below its prototypes alone. What the biases of prototypes bring there"
        " beside dot products is 0.11 at 20-way 5-shot and 0.02 at 5-way 5-shot.",
    ),
    "omniglot-official": (
        "Omniglot, 30 background and 20 evaluation alphabets",
        "Accuracy in % on 1,000 tasks; `within one alphabet` draws all the classes of a task from one alphabet. More"
        " filters bring nothing here, and neither do alphabets re-composed of halves of characters. Pictures of 56"
        " pixels cost several points at as many steps, each of which takes some three times the processor time; of"
        " them the network has features at 4×4 places, not 2×2. Drawings drawn again by their strokes bring nothing"
        " within an alphabet and a little among all; in a training of 1,600 steps from scratch they cost. The five"
        " alphabets of validation are too few to tell: there the third has 90.4, the wide one 89.4, the re-composed"
        " one 91.0; and more steps within alphabets, of the same kind of tasks, harm the third on new alphabets. Tasks"
        " of characters of all alphabets, 60 ways of them, are no training for tasks within one. Of the shipped one,"
        " whose layers all adapt, prototypes alone have 84.97, and its one step 85.13.",
    ),
    "omniglot-evaluations": (
        "Omniglot, several views and several models",
        "Accuracy in % of checkpoints as they are. Views: the mean of predictions after adapting to the support set as"
        " it is and distorted. Several models: the mean of their probabilities.",
    ),
    "alphabet-evaluations": (
        "Omniglot, 20 evaluation alphabets, inductive and transductive",
        "Accuracy in % of `omniglot_official-normalised`, which was shipped before, where a row names no other, on the"
        " same tasks, each of the characters of one alphabet.",
    ),
    "what-adapts": (
        "What adapts, and what learned rates bring",
        "Accuracy in % on the same 1,000 Omniglot tasks, after one inner step unless a row says otherwise, of learners"
        " that were trained on 20-way 1-shot tasks (or 5-way, where a row says that) for as many outer steps as take"
        " about three minutes of one core: 480 where the layers below the head do not adapt, 340 or 360 where they do;"
        " a row of as many outer steps as prototypes alone had compares at equal steps."
        " The network is Conv4 with 64 filters and normalised features. 5 queries a class at 5 ways and 2 at 20,"
        " transductive (BatchNorm normalises the query set by its own statistics).",
    ),
    "precision": (
        "Mixed precision",
        "Accuracy in % on the same 1,000 Omniglot tasks after a short training (400 outer steps) in float32 and in"
        " bf16-mixed, tested in the precision of the training, on CPU.",
    ),
    "transfer": (
        "From printed letters to handwriting",
        "Accuracy in % on 1,000 Omniglot tasks of a learner that was meta-trained on glyphs alone.",
    ),
    "rules-glyphs": (
        "All update rules on glyphs",
        "Accuracy in % on the same 1,000 tasks of scripts never seen, every rule with the same budget.",
    ),
    "rules-sinusoid": (
        "All update rules on sinusoid",
        "Mean squared error on the same 10,000 curves, every rule with the same budget, 3 inner steps. Means: a few"
        " curves on which a rule diverges show.",
    ),
    "family-glyphs": (
        "The family's rules on glyphs, at one small budget",
        "Accuracy in % on the same 500 tasks of scripts never seen, 3 inner steps, after 100 outer steps of 8 tasks,"
        " by seed in brackets. Rates start at 0.1, those of inner Adam, RMSProp and AdaGrad"
        " at 0.01.",
    ),
    "family-sinusoid": (
        "The family's rules on sinusoid, at one small budget",
        "Mean squared error on the same 10,000 curves, 3 inner steps, after 2,000 outer steps of 4 curves (of 60,000 in"
        " the table above), by seed in brackets; seeds differ by more than the intervals over tasks. All rates start at"
        " 0.01, chosen for none of them.",
    ),
    "optimizer-network": (
        "The optimizer network against hand-chosen rates",
        "Accuracy in % on the same 1,000 tasks of unseen scripts, 3 inner steps, three seeds (initial weights and"
        " training tasks), every learner with the same budget.",
    ),
    "long-runs": (
        "What the optimizer network reads in long runs",
        "Accuracy in % of networks trained from random weights for 200 steps on 32 letters of unseen scripts, 20 such"
        " trainings, by what the optimizer network reads. Meta-trained in segments of 50 inner steps where nothing else"
        " is said.",
    ),
}

META_SGD = "prototype head, Meta-SGD (a learned rate for every parameter)"
EQUAL_STEPS = "prototype head, Meta-SGD, for the 480 outer steps of prototypes alone (at 1.4 times the time)"
ALPHABETS = "Meta-SGD, normalised features, trained 20-way 1-shot within one alphabet, drawings mirrored and distorted"
SHORT = "prototypes alone (nothing adapts), 1,600 steps, pictures of 28 pixels"
FURTHER = "prototypes alone (nothing adapts), the body of the third one, 1,600 steps more"
PAIRED = {
    "omniglot-official": [ALPHABETS, SHORT, FURTHER],
    "optimizer-network": ["OptimizerNetwork"],
    "what-adapts": [META_SGD, EQUAL_STEPS],
    "navigation": ["Meta-SGD"],
    "navigation-drawn": ["Meta-SGD"],
    "family-glyphs": ["Meta-SGD"],
    "family-sinusoid": ["Meta-SGD"],
}
"""By table: the rows that the others are compared with, task by task."""
MANY_STEPS = 4
"""Evaluated numbers of inner steps from which on a table shows each."""


def document(records: list[Record]) -> str:
    parts = [HEAD]
    for key, (title, text) in SECTIONS.items():
        own = [r for r in records if r["table"] == key]
        if not own:
            continue
        parts += [f"\n## {title}\n\n{text}\n\n", results_table(own)]
        parts.append(steps_table(own))
        parts += [paired_table(own, row) for row in PAIRED.get(key, [])]
        parts += ["\nHow:\n\n", how_table(own, records)]
    parts += [far_pictures(r) for r in records if r["table"] == "far-pictures"]
    comparisons = [r for r in records if r["table"] == "ordinary"]
    if comparisons:
        parts.append(f"\n## {SUPERVISED}\n")
        parts += [comparison(r) for r in comparisons]
    return "".join(parts)


def far_pictures(record: Record) -> str:
    """Methods beside each other on pictures that nothing was meta-trained on, and the last minus each of the others."""
    methods, rows, paired = record["methods"], [], []
    for column in record["columns"]:
        of = column["accuracy"]
        name = f"{column['set']}, {column['shots']}-shot"
        rows.append([name, *(interval(of[m]) for m in methods)])
        pairs = {m: [a - b for a, b in zip(of[methods[-1]], of[m], strict=True)] for m in methods[:-1]}
        paired.append([name, *map(interval, pairs.values())])
    tasks = len(record["columns"][0]["accuracy"][methods[-1]])
    steps = ", ".join(f"{s} of {k}-shot" for k, s in {c["of"]: c["inner_steps"] for c in record["columns"]}.items())
    return (
        f"\n## Pictures far from those of the training\n\nAccuracy in %, ± half of the 95 % interval, on {tasks} tasks"
        f" of {record['ways']} classes, the same for all. All read EfficientNet-Lite0 with ImageNet weights,"
        f" pictures of {record['side']}×{record['side']}, features of one length.\n\n"
        f"{markdown(METHOD, [list(row) for row in of_each_method(steps)])}\n"
        "Meta-training, and the number of inner steps of ours, used printed glyphs of other scripts alone. But"
        " where ours starts its rates, and its outer learning rate, were set after earlier runs had been seen on 40"
        " tasks of each of these sets with 5 shots; ANIL's were not tuned. Of meta-training:"
        f" {record['steps']} outer steps for ours, {3 * record['steps']} for ANIL. Ours is taken by its steps as they"
        " are: to leave each picture out would be 25 adaptations for each task, too many for one core."
        " Of an emoji there are three vendors' drawings (Google, Twitter, OpenMoji), so 2 shots at most, by what was"
        f" meta-trained for 5. `python experiments/far_pictures.py`: {record['cpu_minutes']:.0f} minutes of a processor"
        f" from stored features on.\n\n{markdown(['', *methods], rows)}\n"
        f"Ours, minus each of the others on the same tasks:\n\n{markdown(['', *methods[:-1]], paired)}"
    )


METHOD = ["", "what was meta-trained", "what adapts to a task"]


def of_each_method(steps: str) -> list[tuple[str, str, str]]:
    return [
        ("nearest centroid", "nothing", "means of the features"),
        ("linear probe", "nothing", "scikit-learn's LogisticRegression as it comes, on the features"),
        (
            "chosen by leave-one-out",
            "nothing",
            "the first or a linear probe, as `adapt --backbone` takes them; the first where there is 1 shot",
        ),
        ("ANIL", "the head's rate", "the head, 5 steps at one rate"),
        (
            "ours",
            "a rate for each block, the scales of the head",
            f"the last convolution, its BatchNorm's scales and shifts, and the head from prototypes on; steps: {steps}",
        ),
    ]


def interval(values: list[float]) -> str:
    """The mean of shares in %, ± the half-width of its 95 % interval."""
    return f"{100 * mean(values):.1f} ± {196 * stdev(values) / len(values) ** 0.5:.1f}"


SUPERVISED = "Supervised training by the learned optimizer, and by others that were tuned"


def comparison(record: Record) -> str:
    """What ``compare`` printed, the best row first."""
    metric = record["metric"]
    finite = [r for r in record["rows"] if r[f"test/{metric}"] is not None]
    best_first = sorted(finite, key=lambda r: r[f"test/{metric}"], reverse=metric == "accuracy")
    best_first += [r for r in record["rows"] if r not in finite]
    rows = []
    for r in best_first:
        name, lr = (r["optimizer"], f"{r['learning_rate']:.3g}") if r["tuned"] else (f"**{r['optimizer']}**", "untuned")
        steps = "never" if r["steps_to_target"] is None else str(r["steps_to_target"])
        rows.append(
            [
                name,
                lr,
                tested(r, metric),
                "–" if r["val/loss"] is None else f"{r['val/loss']:.3f}",
                steps,
                *(shown(r[off], metric) for off in ("val_off_low", "val_off_high")),
            ]
        )
    head = ["optimizer", "learning rate", f"test {metric}", "validation loss", "steps to loss", "÷√10", "×√10"]
    return (
        f"\n**{record['row']}.** `{record['command']}` ({record['machine']}):\n\n{markdown(head, rows)}"
        f"\n{record['terms']}\n\n![The curves](images/{record['name']}.png)\n"
    )


def tested(row: Record, metric: str) -> str:
    """A row's test figure, ± the standard deviation over its seeds."""
    return figure(row[f"test/{metric}"], row[f"test/{metric}_sd"], metric)


def leaders(records: list[Record]) -> str:
    """Of each comparison: what was learned, and the best of those that were tuned."""
    rows = []
    for record in (r for r in records if r["table"] == "ordinary"):
        metric = record["metric"]
        by_name = {r["optimizer"]: r for r in record["rows"]}
        best = max if metric == "accuracy" else min
        tuned = best(
            (r for r in record["rows"] if r["tuned"] and r[f"test/{metric}"] is not None),
            key=lambda r: r[f"test/{metric}"],
        )
        others = [tested(r, metric) for name, r in by_name.items() if not r["tuned"] and name != "learned"]
        best_tuned = f"{tuned['optimizer']}: {tested(tuned, metric)}"
        rows.append([record["row"], tested(by_name["learned"], metric), best_tuned, *others])
    return markdown(["trained", "learned, untuned", "the best of six that were tuned", "learned, unscaled"], rows)


SUMMARY = (
    (
        "omniglot_60w1s-widest-meta-sgd",
        "20-way 1-shot",
        "423 Omniglot characters never seen, 20-way 1-shot; Conv4 with more filters, all layers adapt",
    ),
    ("omniglot_60w1s-widest-meta-sgd", "5-way 1-shot", "the same learner, 5-way 1-shot"),
    (
        "omniglot_official-meta-sgd",
        "20-way 1-shot within one alphabet",
        "Omniglot, 20-way 1-shot within one of 20 alphabets never seen; all layers adapt",
    ),
    (
        "glyphs-handwriting-normalised",
        "Omniglot, 423 characters",
        "Omniglot by a learner that has seen printed letters alone, 5-way 1-shot; the head adapts",
    ),
    (
        "sinusoid-5-meta-sgd",
        "5-shot",
        "sine curves from 5 points, mean squared error; all layers adapt, in one inner step",
    ),
)
"""The records and tests that the README names, in its words."""


def summary(records: list[Record]) -> str:
    """The README's few lines."""
    by_name = {r["name"]: r for r in records}
    rows = []
    for name, column, words in SUMMARY:
        if name in by_name:
            record = by_name[name]
            test = record["tests"][column]
            minutes: dict[str, float] = {}  # of each machine, in the order of the runs
            for one in lineage(record, records):
                where = re.split(", (?:torch|beside)", one["machine"])[0]
                minutes[where] = minutes.get(where, 0) + one["seconds"] / 60
            unit = " %" if test["metric"] == "accuracy" else ""
            rows.append(
                [
                    words,
                    figure(test["mean"], test["ci95"], test["metric"]) + unit,
                    record["published"].get(column, ""),
                    ", then ".join(f"{of_one:.0f} min, {where}" for where, of_one in minutes.items()),
                ]
            )
    return markdown(["tasks and learner", "ours", "Li et al. 2017", "training"], rows)


def results_table(records: list[Record]) -> str:
    """A row for each row named in the records; several seeds of one row stand side by side in its cells."""
    columns = list(dict.fromkeys(column for r in records for column in r["tests"]))
    saying = any("adapts" in test for r in records for test in r["tests"].values())
    rows = []
    for row in dict.fromkeys(r["row"] for r in records):
        seeds = [r for r in records if r["row"] == row]
        if len({r["seed"] for r in seeds}) < len(seeds):
            raise ValueError(f"experiments of one seed share the row {row!r}: {', '.join(r['name'] for r in seeds)}")
        adapts = dict.fromkeys(test.get("adapts", "") for r in seeds for test in r["tests"].values())
        rows.append([row, *([", ".join(adapts)] if saying else []), *(cell(seeds, column) for column in columns)])
    return markdown(["", *(["adapts"] if saying else []), *columns], rows)


def cell(seeds: list[Record], column: str) -> str:
    found = [r["tests"][column] for r in seeds if column in r["tests"]]
    if not found:
        return ""
    published = seeds[0]["published"].get(column)
    text = ", ".join(figure(t["mean"], t["ci95"], t["metric"]) for t in found)
    if len(found) > 1:
        text = f"**{shown(mean(t['mean'] for t in found), found[0]['metric'])}** ({text})"
    return f"{text} [{published}]" if published else text


def steps_table(records: list[Record]) -> str:
    """By the number of inner steps, where the test of most of them has recorded intervals: means over the seeds."""
    rows = []
    for row in dict.fromkeys(r["row"] for r in records):
        longest = [
            max(r["tests"].values(), key=lambda test: len(test.get("by_inner_step_ci95", ())))
            for r in records
            if r["row"] == row
        ]
        if any(len(test.get("by_inner_step_ci95", ())) < MANY_STEPS for test in longest):
            continue
        values = [
            [mean(one) for one in zip(*(t[k] for t in longest), strict=True)]
            for k in ("by_inner_step", "by_inner_step_ci95")
        ]
        metric = longest[0]["metric"]
        rows.append([row, *(figure(value, half, metric) for value, half in zip(*values, strict=True))])
    if not rows:
        return ""
    head = ["", "no step", *(f"{s} step{'s' * (s > 1)}" for s in range(1, len(rows[0]) - 1))]
    return "\nAfter each number of inner steps, the mean over the seeds of means and of intervals:\n\n" + markdown(
        head, rows
    )


def paired_table(records: list[Record], first: str) -> str:
    """A row against the others, task by task; a seed's learners met the same tasks."""
    by_seed = {(r["row"], r["seed"]): r["tests"] for r in records}
    columns = list(by_seed[next(key for key in by_seed if key[0] == first)])
    rows = []
    for other in dict.fromkeys(r["row"] for r in records if r["row"] != first):
        seeds = [seed for row, seed in by_seed if row == other and (first, seed) in by_seed]
        pairs = [(by_seed[first, seed], by_seed[other, seed]) for seed in seeds]
        if pairs:
            rows.append([other, *(difference(pairs, column) for column in columns), str(len(seeds))])
    unit = ", in points" if next(iter(records[0]["tests"].values()))["metric"] == "accuracy" else ""
    return f"\n{first}, minus each of the others on the same tasks{unit} (of each seed in brackets):\n\n" + markdown(
        ["against", *columns, "seeds"], rows
    )


def difference(pairs: list[tuple[Record, Record]], column: str) -> str:
    """The mean of the paired differences, ± the half-width of its interval over tasks; and that of each seed."""
    of_seeds = [
        # of those that both were tested on: the tasks of a shorter test are the first of a longer one
        [a - b for a, b in zip(ours[column]["first_tasks"], theirs[column]["first_tasks"], strict=False)]
        for ours, theirs in pairs
        if column in theirs
    ]
    if not of_seeds:
        return ""
    scale = 100 if pairs[0][0][column]["metric"] == "accuracy" else 1
    gaps = [gap for of_seed in of_seeds for gap in of_seed]
    half = 1.96 * stdev(gaps) / math.sqrt(len(gaps))
    each = ", ".join(f"{scale * mean(of_seed):+.2f}" for of_seed in of_seeds)
    return f"{scale * mean(gaps):+.2f} ± {scale * half:.2f}" + (f" ({each})" if len(of_seeds) > 1 else "")


def lineage(record: Record, records: list[Record]) -> list[Record]:
    """The record, and before it those of the runs that it started from with ``--init_from``."""
    before = re.search(r"--init_from runs/([^/ ]+)/", record["fit"])
    return [*(one for r in records if before and r["name"] == before[1] for one in lineage(r, records)), record]


def how_table(records: list[Record], everything: list[Record]) -> str:
    rows = [
        [
            f"`{r['name']}`",
            f"`{r['fit'] or first_test['command']}`",
            " + ".join(f"{one['outer_steps']:,}" for one in lineage(r, everything)),
            " + ".join(f"{one['seconds'] / 60:.0f}" for one in lineage(r, everything)) + " min",
            r["machine"],
            first_test["protocol"],
        ]
        for r in records
        for first_test in [next(iter(r["tests"].values()))]
    ]
    return markdown(["run", "command", "outer steps", "time", "machine", "protocol"], rows)


def figure(value: float | None, ci95: float | None, metric: str) -> str:
    return shown(value, metric) + ("" if ci95 is None else f" ± {shown(ci95, metric)}")


def shown(value: float | None, metric: str) -> str:
    if value is None:
        return "–"  # diverged, or was not tried
    return f"{100 * value:.2f}" if metric == "accuracy" else f"{value:.3f}"


def markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
