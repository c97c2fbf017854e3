"""The goals' tables of docs/results.md: what others published, what is recorded here, and what is missing."""

from collections.abc import Sequence
from typing import Any

from results_tables import difference, figure, markdown

Record = dict[str, Any]

COLUMNS = ("5-way 1-shot", "5-way 5-shot", "20-way 1-shot", "20-way 5-shot")
POSTER = "the poster of Meta-Curvature"
PUBLISHED: tuple[tuple[str, str, int | str, tuple[str, str, str, str]], ...] = (
    # learner, quoted from, models, cells
    (
        "Meta-SGD (Li 2017), 64 filters",
        "its table 2",
        1,
        ("99.53 ± 0.26", "99.93 ± 0.09", "95.93 ± 0.38", "98.97 ± 0.19"),
    ),
    (
        "MAML++ (Antoniou 2019)",
        f"{POSTER}; a listing has 99.85 for 5-way 5-shot",
        "several",
        ("99.47", "99.93", "97.65", "99.33"),
    ),
    (
        "Meta-Curvature (Park and Oliva 2019)",
        POSTER,
        1,
        ("99.77 ± 0.17", "99.79 ± 0.10", "97.86 ± 0.26", "99.24 ± 0.07"),
    ),
    ("Meta-Curvature", POSTER, 3, ("99.97 ± 0.06", "99.89 ± 0.06", "99.12 ± 0.16", "99.65 ± 0.05")),
)
OURS = (
    # learner, experiment, models, how it is evaluated
    ("the network as published, 64 filters", "omniglot_60w1s-normalised", 1, "15 queries a class"),
    ("the same", "omniglot_60w1s-normalised-as-maml", 1, "as MAML's code"),
    ("64 filters, prototype head, all layers adapt", "omniglot_60w1s-published-network", 1, "15 queries a class"),
    ("the same", "omniglot_60w1s-published-network-as-maml", 1, "as MAML's code"),
    ("32, 64, 128 and 256 filters", "omniglot_60w1s-wider", 1, "15 queries a class"),
    ("the same", "omniglot_60w1s-wider-as-maml", 1, "as MAML's code"),
    (
        "64, 128, 256 and 512 filters, prototype head, all layers adapt (`checkpoints/omniglot`)",
        "omniglot_60w1s-widest-meta-sgd",
        1,
        "15 queries a class",
    ),
    ("the same", "omniglot_60w1s-widest-meta-sgd-as-maml", 1, "as MAML's code"),
    ("32, 64, 128 and 256 filters, mean of 4 views of each support set", "omniglot-wider-views", 1, "as MAML's code"),
    ("that and one whose prototypes alone tell", "omniglot-ensemble", 2, "as MAML's code"),
)
GOALS = {"one model": (99.80, 99.93, 98.7, 99.6), "several models": (99.97, 99.95, 99.2, 99.7)}
VIEWS = ("omniglot-wider-views", "omniglot-ensemble")
SINGLE = "omniglot_60w1s-wider-as-maml"
SHIPPED, BEFORE = "omniglot_60w1s-widest-meta-sgd", "omniglot_60w1s-wider"
CHOSEN = {"one model": SINGLE, "several models": "omniglot-ensemble"}
"""What is held against the goals, as MAML's code evaluates: one model, and all of those that are at hand."""

WITHIN = "20-way 1-shot within one alphabet"
VIEWED, ONE_VIEW = "omniglot-official-shipped-views", "omniglot_official-meta-sgd"
QUOTED = (
    ("Bayesian program learning (Lake 2015)", "3.3"),
    ("people (Lake 2015)", "4.5"),
    ("a Siamese network (Lake 2019)", "8.0"),
    ("prototypical networks (Lake 2019)", "13.7"),
)
ALPHABET = (
    ("omniglot_official-normalised", "1,000 random tasks, transductive"),
    ("omniglot_official-meta-sgd", "the same, all layers adapt (`checkpoints/omniglot_official`)"),
    ("omniglot-official-shipped-views", "that checkpoint, mean of 4 views"),
    ("omniglot-official-shipped-inductive", "that checkpoint, inductive"),
    ("omniglot_official-wider", "1,000 random tasks, transductive, prototypes of a wider network"),
    ("omniglot_official-recomposed", "1,000 random tasks, transductive, prototypes, re-composed alphabets trained on"),
    ("omniglot_official-28px", "1,000 random tasks, transductive, prototypes, 1,600 outer steps"),
    ("omniglot_official-56px", "the same, pictures of 56 pixels"),
    ("omniglot_official-redrawn", "the same, 28 pixels, drawings drawn again by their strokes"),
    ("omniglot_official-further", "as the first, prototypes, 1,600 outer steps more"),
    ("omniglot_official-further-redrawn", "the same, drawings drawn again by their strokes"),
    ("omniglot_official-60w1s", "1,000 random tasks, transductive, prototypes, trained 60-way on all alphabets"),
    ("omniglot_official-steps", "1,000 random tasks, transductive, prototype head, 3 steps on all layers"),
    ("omniglot-alphabet-ensemble", "random tasks, transductive, two models"),
    ("omniglot-alphabet-inductive", "random tasks, inductive"),
    ("omniglot-alphabet-views", "random tasks, transductive, mean of 4 views"),
    ("omniglot-alphabet-views-inductive", "random tasks, inductive, mean of 4 views"),
)
FOLDERS = (("one-shot-folders", "{} folders, {}"), ("one-shot-folders-views", "{} folders, {}, mean of 4 views"))


def goals(records: Sequence[Record]) -> str:
    """Both tables, of what is recorded."""
    by_name = {r["name"]: r for r in records}
    return omniglot(by_name) + within_an_alphabet(by_name)


def omniglot(by_name: dict[str, Record]) -> str:
    rows = [[name, where, str(models), "", *cells] for name, where, models, cells in PUBLISHED]
    for words, name, models, how in OURS:
        if name not in by_name:
            continue
        tests = by_name[name]["tests"]
        cells = [figure(t["mean"], t["ci95"], "accuracy") if (t := tests.get(c)) else "" for c in COLUMNS]
        rows.append([f"here: {words}", f"`{name}`", str(models), how, *cells])
    for kind, aims in GOALS.items():
        tests = by_name.get(CHOSEN[kind], {"tests": {}})["tests"]
        cells = [_goal(aim, tests.get(column)) for aim, column in zip(aims, COLUMNS, strict=True)]
        rows.append([f"goal, {kind}", "" if not tests else f"`{CHOSEN[kind]}`", "", "", *cells])
    paired = [
        [words, *(_gain(by_name[name]["tests"], by_name[SINGLE]["tests"], column) for column in COLUMNS)]
        for words, name, *_ in OURS
        if name in VIEWS and name in by_name and SINGLE in by_name
    ]
    if {SHIPPED, BEFORE} <= by_name.keys():
        ours, before = (by_name[name]["tests"] for name in (SHIPPED, BEFORE))
        paired.append(
            ["64 to 512 filters, all layers adapt, 15 queries a class", *(_gain(ours, before, c) for c in COLUMNS)]
        )
    gains = (
        "\nMinus the one model of 32, 64, 128 and 256 filters on the same tasks, in points:\n\n"
        + markdown(["", *COLUMNS], paired)
        if paired
        else ""
    )
    return (
        "\n## The family's records on Omniglot\n\n"
        "Accuracy in %; all are transductive (BatchNorm normalises the query set by its own statistics). Of"
        " the learners here the head adapts, in one inner step, where a row says nothing else, and nothing of"
        " the one by prototypes, which has the body of 32 to 256 filters and 5,000 outer steps more; of the"
        " published ones all layers adapt. As MAML's code: as many queries a class as shots, test characters"
        " rotated. Held against the goals are checkpoints that validation chose. Tried: 60 ways, more"
        " filters, drawings mirrored and distorted, views, two models, which are too alike to help; not tried"
        " for want of a GPU: `experiments/gpu_records.sh`, models of several seeds, Meta-Curvature. In the"
        " row of 64 filters and a prototype head, trained for 3,600 steps where the others had 16,000 and"
        " more, all layers adapt by learned rates. The commands are under Omniglot.\n\n"
        + markdown(["learner", "from", "models", "evaluated by", *COLUMNS], rows)
        + gains
    )


def _goal(aim: float, test: Record | None) -> str:
    if test is None:
        return f"{aim:.2f}"
    missing = round(aim - 100 * test["mean"], 2)
    return f"{aim:.2f} (short by {missing:.2f})" if missing > 0 else f"{aim:.2f} (met)"


def _gain(own: Record, other: Record, column: str) -> str:
    return difference([(own, other)], column) if column in own else ""


def within_an_alphabet(by_name: dict[str, Record]) -> str:
    rows = [[name, "quoted, not read in the paper", error] for name, error in QUOTED]
    for name, how in ALPHABET:
        if name in by_name:
            test = by_name[name]["tests"][WITHIN]
            said = how.replace("random tasks", f"{test['n_tasks']:,} random tasks").replace("1,000 1,000", "1,000")
            rows.append([f"here, `{name}`", said, figure(1 - test["mean"], test["ci95"], "accuracy")])
    for name, how in FOLDERS:
        if name in by_name:
            record = by_name[name]
            rows += [
                [f"here, `{name}`", how.format(record["runs"], kind), figure(1 - one["mean"], one["ci95"], "accuracy")]
                for kind in ("inductive", "transductive")
                for one in [record[kind]]
            ]
    return (
        "\n## Within one alphabet\n\n"
        "Error in %, 20-way 1-shot, 30 background alphabets to learn from. The published figures are of 20 fixed runs,"
        " 400 trials, whose files are not at hand; the folders here are of the same kind, drawn at random (20"
        " characters of an alphabet, one drawer's as support, another's as query, 5 times for each evaluation"
        " alphabet), through `adapt`. In random tasks each drawing is of any drawer. The learner has 64 filters and"
        " normalised features; its head adapts, unless a row says that all layers do, or nothing (prototypes). Tried"
        " against the error: more filters, alphabets re-composed of halves, drawings drawn again by their strokes,"
        " pictures of 56 pixels, tasks of all alphabets, several steps on all layers, two models: none brings more than"
        " a few tenths. The goals are 4.5 and 3.3 on the published runs, 8 on random tasks: all are missed.\n\n"
        + markdown(["learner", "how", "error"], rows)
        + _of_views(by_name)
    )


def _of_views(by_name: dict[str, Record]) -> str:
    """What the mean over views of the support set brings to the one model, where both are recorded."""
    if not {VIEWED, ONE_VIEW} <= by_name.keys():
        return ""
    gain = _gain(by_name[VIEWED]["tests"], by_name[ONE_VIEW]["tests"], WITHIN)
    return (
        "\nAccuracy of one model by the mean of 4 views of each support set (`--data.eval_views 4`), minus that of the"
        f" same model by one, on the same tasks, in points: {gain}.\n"
    )
