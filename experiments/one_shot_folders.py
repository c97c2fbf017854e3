"""20-way one-shot classification within one alphabet, by ``adapt`` on folders of 20 files with one picture per class.

    python experiments/one_shot_folders.py CHECKPOINT [--omniglot data/omniglot] [--runs 5] [--eval_views 1]
        [--json out.json]

As in Lake et al. (2015): for every evaluation alphabet with enough characters, RUNS times, 20 characters and two
drawers; one drawer's 20 files are the support, the other's the query. Prints the share that is predicted right, by
alphabet and in all, with the 95 % interval over the runs; queries do not influence each other, but in the row
``transductive``. Held out is this for a checkpoint that was trained with ``split: official`` alone: others have seen
other characters of the same alphabets, and it is said so.
"""

import argparse
import contextlib
import csv
import io
import json
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import metasgd
from metasgd.cli.adapt import adapt

ROOT = Path(__file__).parents[1]
WAYS = 20


def drawings(archive: zipfile.ZipFile) -> dict[str, dict[str, dict[int, str]]]:
    """The name in the archive of each alphabet's, character's and drawer's picture."""
    found: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in sorted(archive.namelist()):
        if name.endswith(".png"):
            _, alphabet, character, file = name.split("/")
            found[alphabet][character][int(Path(file).stem.split("_")[1])] = name
    return found


def right(
    checkpoint: Path, support: dict[str, bytes], query: dict[str, bytes], transductive: bool, eval_views: int
) -> float:
    """The share of ``query`` that ``adapt`` predicts right; both hold a file by its class's name."""
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        folders = {"support": support, "query": query}
        for name, files in folders.items():
            (Path(place) / name).mkdir()
            for character, content in files.items():
                (Path(place) / name / f"{character}.png").write_bytes(content)
        answers = Path(place) / "answers.csv"
        paths = (str(Path(place) / f) for f in (*folders, "answers.csv"))
        adapt(*paths, ckpt_path=str(checkpoint), transductive=transductive, eval_views=eval_views)
        with answers.open(newline="") as file:
            rows = list(csv.DictReader(file))
    return sum(Path(row["file"]).stem == row["label"] for row in rows) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--omniglot", type=Path, default=ROOT / "data" / "omniglot")
    parser.add_argument("--runs", type=int, default=5, help="of each alphabet")
    parser.add_argument("--eval_views", type=int, default=1, help="as adapt has it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    source = metasgd.load(options.checkpoint).config["data"]["source"]["init_args"]
    held_out = source.get("split") == "official"
    found: dict[str, dict[str, list[float]]] = {"inductive": {}, "transductive": {}}
    with zipfile.ZipFile(options.omniglot / "images_evaluation.zip") as archive:
        for a, (alphabet, characters) in enumerate(drawings(archive).items()):
            if len(characters) < WAYS:
                continue
            for protocol in found:
                found[protocol][alphabet] = []
            for run in range(options.runs):
                stream = np.random.default_rng([a, run])
                chosen = stream.choice(sorted(characters), WAYS, replace=False)
                drawers = stream.choice(20, 2, replace=False) + 1
                support, query = ({c: archive.read(characters[c][int(d)]) for c in chosen} for d in drawers)
                for protocol, shares in found.items():
                    share = right(options.checkpoint, support, query, protocol == "transductive", options.eval_views)
                    shares[alphabet].append(share)
    title = f"{options.checkpoint}: 20-way 1-shot within one alphabet, {options.runs} runs each"
    table = Table(
        "alphabet", *found, title=title, caption=None if held_out else "not held out: trained on all alphabets"
    )
    for alphabet in found["inductive"]:
        table.add_row(alphabet, *(f"{100 * np.mean(shares[alphabet]):.1f}" for shares in found.values()))
    every = {protocol: np.concatenate(list(shares.values())) for protocol, shares in found.items()}
    half = {protocol: 1.96 * shares.std(ddof=1) / len(shares) ** 0.5 for protocol, shares in every.items()}
    table.add_row("all", *(f"{100 * every[p].mean():.1f} ± {100 * half[p]:.1f}" for p in every), style="bold")
    Console().print(table)
    if options.json:
        figures = {p: {"mean": float(every[p].mean()), "ci95": float(half[p]), "by_alphabet": found[p]} for p in found}
        options.json.write_text(
            json.dumps({"held_out": held_out, "runs": len(every["inductive"]), **figures}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
