"""Turn a recorded run into ``checkpoints/NAME``: weights without the optimizer's state, configuration, card.

    python experiments/publish.py NAME EXPERIMENT

EXPERIMENT is one that ``results.py run`` has trained here and recorded.
"""

import argparse
import hashlib
import json
import re
import time
from typing import Any

import torch
import yaml
from records import load
from results import ROOT, experiments
from results_tables import lineage

from metasgd.runs.checkpoint_file import read_checkpoint
from metasgd.runs.checkpoint_schema import CONFIG_KEY

PUBLISHED = ("state_dict", "global_step", "epoch", "pytorch-lightning_version")

CARD = """# {name}

{row}, trained by

```bash
{fit}
```

| | |
|---|---|
| data | {data} |
| protocol | {protocol} |
| seed | {seed} |
| outer steps | {before}{steps:,} of {outer_steps:,}, chosen on the validation tasks |
| time | {time} |
| date | {date} |
| sha256 of `model.ckpt` | `{sha256}` |

| test | result | tasks |
|---|---|---|
{results}

Repeat the first result:

```bash
python -m metasgd test --config checkpoints/{name}/config.yaml --ckpt_path checkpoints/{name}/model.ckpt
```
"""


def published_config(text: str, shipped: dict[str, Any], test: str) -> str:
    """The run's configuration, with the folders of the shipped one, where another's paths mean nothing.

    It draws the tasks of the card's first test, and trains all of the network, on such tasks, where it trains any of
    it; how it was trained is in the card.

    Args:
        text: the run's configuration.
        shipped: the one that it began as.
        test: the command of the card's first test.
    """
    config = yaml.safe_load(text)
    config["data"] |= {"n_way": shipped["data"]["n_way"], "train_shapes": None}
    config["data"] |= {option: int(value) for option, value in re.findall(r"--data\.(n_way|k_shot) (\d+)", test)}
    config["model"]["outer"]["freeze_network"] = config["model"]["segments"] > 1  # as long runs need it
    config["data"]["root"] = shipped["data"].get("root", "data")
    config["data"]["cache_dir"] = None
    config["trainer"]["logger"]["init_args"]["save_dir"] = "runs"
    config["trainer"]["accelerator"] = "auto"  # whatever it was trained on
    config["trainer"]["enable_progress_bar"] = None  # off in a record's run, that nobody looked at
    config["ckpt_path"] = None
    config.pop("init_from", None)
    return yaml.safe_dump(config, sort_keys=False)


def publish(name: str, experiment: str) -> None:
    records = load()
    record = records[experiment]
    trained = lineage(record, list(records.values()))
    described = experiments()[experiment]
    shipped = yaml.safe_load((ROOT / described.config).read_text())
    run = ROOT / "runs" / experiment / "version_0"
    content = read_checkpoint(run / "checkpoints" / "best.ckpt")
    first = next(iter(record["tests"].values()))
    config = published_config(content[CONFIG_KEY], shipped, first["command"])
    folder = ROOT / "checkpoints" / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({key: content[key] for key in PUBLISHED} | {CONFIG_KEY: config}, folder / "model.ckpt")
    (folder / "config.yaml").write_text(config)
    percent = first["metric"] == "accuracy"
    results = "\n".join(
        f"| {column} | {_shown(t['mean'], percent)} ± {_shown(t['ci95'], percent)} | {t['n_tasks']:,} |"
        for column, t in record["tests"].items()
    )
    card = CARD.format(
        name=name,
        row=record["row"],
        fit="\n".join(one["fit"] for one in trained),
        data=yaml.safe_load(config)["data"]["source"]["class_path"].rpartition(".")[2],
        protocol=first["protocol"],
        seed=record["seed"],
        steps=int(content["state_dict"]["outer_steps"]),
        outer_steps=record["outer_steps"],
        before="".join(f"{one['outer_steps']:,}, and from its best " for one in trained[:-1]),
        time=", then ".join(f"{one['seconds'] / 60:.0f} min on {one['machine']}" for one in trained),
        date=time.strftime("%Y-%m-%d", time.localtime((run / "checkpoints" / "best.ckpt").stat().st_mtime)),
        sha256=hashlib.sha256((folder / "model.ckpt").read_bytes()).hexdigest(),
        results=results,
    )
    (folder / "README.md").write_text(card)
    stated = {
        "metric": first["metric"],
        "mean": first["mean"],
        "ci95": first["ci95"],
        "first_tasks": first["first_tasks"],
    }
    (folder / "card.json").write_text(json.dumps(stated) + "\n")


def _shown(value: float, percent: bool) -> str:
    return f"{100 * value:.2f} %" if percent else f"{value:.4f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("experiment")
    options = parser.parse_args()
    publish(options.name, options.experiment)
