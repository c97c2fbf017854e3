"""Make the tables of docs/performance.md and docs/backbones.md from the records of the benchmarks.

    PYTHONPATH=experiments python benchmarks/performance_tables.py

Records are the JSON files that the benchmarks write, in docs/performance.
"""

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results_tables import markdown

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "performance"
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("performance", "backbones")]
MIB = 2**20


def records(pattern: str) -> list[Any]:
    return [json.loads(path.read_text()) for path in sorted(RECORDS.glob(pattern))]


def peers() -> str:
    return table_of_peers(records("peers_*.json"))


def table_of_peers(found: list[Any]) -> str:
    results = [r for record in found for r in record["results"]]
    names = list(dict.fromkeys(name for r in results for name in r["contenders"]))
    rows = []
    for r in results:
        own, *others = (r["contenders"].get(n) for n in names)
        ratios = []
        for c in others:
            if c is None:
                ratios.append("")
                continue
            low, high = c["ratio_quartiles"]
            ratios.append(f"{c['ratio']:.2f} ({low:.2f}–{high:.2f}), {c['peak_bytes'] / MIB:.0f}")
        rows.append([r["name"], f"{own['seconds'] * 1e3:.1f}", f"{own['peak_bytes'] / MIB:.0f}", *ratios])
    return markdown(["one outer step", "ms", "peak MiB", *(f"{n}: ratio, MiB" for n in names[1:])], rows)


def on_a_gpu() -> str:
    (record,) = records("gpu_closed_form.json")
    rows = []
    for r in record["results"]:
        kernels, errors = r["kernels"], r.get("errors", {})
        cells = [
            f"{r['ms'][way]:.2f} ({kernels[way]:,})" if way in r["ms"] else "" for way in ("autograd", "closed forms")
        ]
        gain = f"{r['ms']['autograd'] / r['ms']['closed forms']:.2f}" if "autograd" in r["ms"] else ""
        rows.append([r["name"], *cells, gain, " / ".join(f"{e:.1e}" for e in errors.values())])
    head = ["one outer gradient, recorded", "autograd, ms (kernels)", "closed forms, ms (kernels)", "ratio", "errors"]
    return f"{record['settings']['card']}, torch {record['settings']['torch']}.\n\n{markdown(head, rows)}"


def beside_peers_on_a_gpu() -> str:
    return table_of_peers(records("gpu_peers_*.json"))


def scaling_on_a_gpu() -> str:
    (record,) = records("gpu_scaling.json")
    rows = []
    for r in record["results"]:
        figures = (f"{r['seconds'] * 1e3:.1f}", f"{r['tasks_per_second']:,.0f}", f"{r['peak_bytes'] / MIB:,.0f}")
        rows.append([r["work"]["name"], *figures])
    return markdown(["one outer gradient", "ms", "tasks/s", "peak MiB"], rows)


def optimizers_on_a_gpu() -> str:
    (record,) = records("gpu_optimizer.json")
    rows = []
    for name, row in record["rows"].items():
        cells = []
        for kind in ("step", "training_step"):
            low, high = row[kind]["quartiles"]
            cells += [f"{row[kind]['seconds'] * 1e3:.2f}", f"{row[kind]['ratio']:.2f} ({low:.2f}–{high:.2f})"]
        rows.append([name, *cells])
    return markdown(["optimizer", "step, ms", "ratio", "whole training step, ms", "ratio"], rows)


def host() -> str:
    rows, names = [], list[str]()
    for when in ("before", "after"):
        (record,) = records(f"host_{when}.json")
        for workers, rounds in record["rounds"].items():
            names = list(rounds[0])
            ratios = sorted(one["fit"] / one["bare"] for one in rounds)
            times = (f"{statistics.median(one[name] for one in rounds):.0f}" for name in names)
            spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
            rows.append([workers, when, *times, spread])
    return markdown(["loader processes", "", *names, "`fit` / bare"], sorted(rows, key=lambda row: row[0]))


def floor() -> str:
    (record,) = records("floor.json")
    rows = []
    for w in record["works"]:
        figures = (f"{w['operations'] / 1e9:.0f}", f"{w['floor'] * 1e3:.0f}", f"{w['reached'] * 1e3:.0f}")
        rows.append([w["name"], *figures, f"{w['floor'] / w['reached']:.0%}"])
    speed = f"{record['operations_per_second'] / 1e9:.0f} GFLOP/s on {record['threads']} threads"
    return f"Matrix products: {speed}.\n\n" + markdown(["one outer step", "GFLOP", "floor, ms", "ms", "share"], rows)


def scaling() -> str:
    (record,) = records("scaling.json")
    rows = []
    for r in record["results"]:
        figures = (f"{r['seconds'] * 1e3:.1f}", f"{r['tasks_per_second']:.0f}", f"{r['peak_bytes'] / MIB:.0f}")
        rows.append([r["varied"], r["work"]["name"], f"{r['threads']} × {r['processes']}", *figures])
    return markdown(["varied", "one outer step", "threads × processes", "ms", "tasks/s", "peak MiB"], rows)


def overhead() -> str:
    (record,) = records("overhead.json")
    rows = []
    for r in record["results"]:
        ratios = (f"{x['median']:.2f} ({x['all'][0]:.2f}–{x['all'][-1]:.2f})" for x in r["ratios"].values())
        rows.append([r["config"], *(f"{s * 1e3:.2f}" for s in r["seconds"].values()), *ratios])
    times = ["`fit`, ms", "bare, ms", "drawing, ms", "evaluation, ms"]
    ratios = ["(fit − drawing) / bare", "drawing / bare", "tasks/s, evaluation to training"]
    return markdown(["config", *times, *ratios], rows)


def time_to_accuracy() -> str:
    return courses(records("time_to_accuracy_[12].json"), (0.9, 0.93, 0.95, 0.96, 0.97, 0.975, 0.98))


def time_to_95() -> str:
    return courses(records("time_to_accuracy_3.json"), (0.85, 0.9, 0.92, 0.93, 0.94, 0.95))


def courses(found: list[Any], accuracies: tuple[float, ...]) -> str:
    """Seconds to each accuracy, by the clock and of CPUs, or the best that was reached."""
    validated = {name: course for record in found for name, course in record["validated"].items()}
    rows = []
    for accuracy in accuracies:
        cells = []
        for course in validated.values():
            at = next((v for v in course if v["accuracy"] >= accuracy), None)
            best = max(v["accuracy"] for v in course)
            cells.append(
                f"{at['seconds']:.0f} s, {at['cpu_seconds']:.0f} of CPU ({at['outer_steps']})"
                if at
                else f"not reached ({best:.2%})"
            )
        rows.append([f"{accuracy:.1%}", *cells])
    return markdown(["validation accuracy", *validated], rows)


def backbones() -> str:
    (record,) = records("backbones.json")
    rows = [
        [f"`{r['name']}`", f"{r['parameters'] / 1e6:.1f}", f"{r['seconds']:.0f}", f"{r['peak_bytes'] / MIB:.0f}"]
        for r in record["results"]
    ]
    table = markdown(["network", "million parameters", "seconds of a processor", "peak MiB"], rows)
    return (
        f"torch {record['torch']}; to import everything takes {record['seconds_to_import']:.0f} s of these.\n\n{table}"
    )


def cached_features() -> str:
    (record,) = records("cached_features.json")
    rows = [
        [
            f"`{r['name']}`",
            f"{r['bytes'] / 1000:.1f}",
            f"{1 / r['seconds_per_picture']:.0f}",
            f"{10_000 * r['seconds_per_picture'] / 60:.0f}",
            f"{r['seconds_per_step']:.1f}",
            f"{r['seconds_per_step_without']:.1f}",
        ]
        for r in record["results"]
    ]
    head = [
        "network",
        "kB a picture",
        "pictures cached in a second",
        "minutes for 10,000",
        "seconds for an outer step after it",
        "without a cache",
    ]
    tasks, pictures = record["tasks"], record["pictures_per_task"]
    return (
        f"torch {record['torch']}, one thread; an outer step is {tasks} tasks of {pictures} pictures.\n\n"
        f"{markdown(head, rows)}"
    )


TABLES: list[Callable[[], str]] = [
    on_a_gpu,
    beside_peers_on_a_gpu,
    scaling_on_a_gpu,
    optimizers_on_a_gpu,
    host,
    peers,
    floor,
    scaling,
    overhead,
    time_to_accuracy,
    time_to_95,
    backbones,
    cached_features,
]


def main() -> None:
    for path in PAGES:
        page = path.read_text()
        for made in TABLES:
            name = made.__name__
            page = re.sub(
                rf"(?s)(?<=<!-- {name} -->\n).*(?=<!-- end of {name} -->)", lambda _, made=made: f"\n{made()}\n", page
            )
        path.write_text(page)


if __name__ == "__main__":
    main()
