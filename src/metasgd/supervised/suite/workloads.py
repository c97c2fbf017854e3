"""The workloads that are reported; ``choosing`` has those that variants are chosen by."""

from functools import partial

from metasgd.nn.networks import MLP, Conv4
from metasgd.nn.residual import WideResNet
from metasgd.supervised.suite import networks as nets
from metasgd.supervised.suite.choosing import CHOOSING
from metasgd.supervised.suite.data import Letters, Table, Text, Textures
from metasgd.supervised.suite.languages import LANGUAGES
from metasgd.supervised.suite.workload import CLASSES, SQUARES, SYMBOLS, Workload

SMALL = (
    Workload(
        "table_long",
        "tiny MLP, 3,000 steps: tabular classification, 7 classes by a random teacher",
        partial(MLP, 20, [32, 32], 7),
        Table(seed=1101, n_features=20, n_classes=7, rows=8000),
        CLASSES,
        steps=3000,
        batch_size=64,
    ),
    Workload(
        "raw_regression",
        "MLP: tabular regression, targets of mean 50 and standard deviation 20 as they are",
        partial(MLP, 12, [64, 64], 1),
        Table(seed=1102, n_features=12, mean=50.0, sd=20.0),
        SQUARES,
        steps=1000,
        batch_size=32,
    ),
    Workload(
        "letters_wide",
        "MLP of 512 units a layer: 80 printed letters",
        partial(MLP, 784, [512, 512], 80),
        Letters(seed=1103, split="test", n_classes=80),
        CLASSES,
        steps=300,
        batch_size=64,
    ),
    Workload(
        "letters_batchnorm",
        "CNN with BatchNorm: 100 printed letters",
        partial(Conv4, 100, head="linear", width=16, running_statistics=True),
        Letters(seed=1103, split="test", n_classes=100),
        CLASSES,
        steps=400,
        batch_size=64,
    ),
    Workload(
        "letters_plain",
        "CNN without normalisation: 60 printed letters, small batches",
        partial(nets.plain_cnn, (16, 32, 32), 28, 60),
        Letters(seed=1103, split="test", n_classes=60),
        CLASSES,
        steps=800,
        batch_size=16,
    ),
    Workload(
        "textures_resnet",
        "small residual network: 24 textures in colour",
        partial(WideResNet, 24, head="linear", depth=10, width=1, image_size=16, running_statistics=True),
        Textures(seed=1104, n_classes=24),
        CLASSES,
        steps=200,
        batch_size=32,
    ),
    Workload(
        "letters_vit",
        "small vision transformer: 60 printed letters",
        partial(nets.VisionTransformer, 28, 7, width=48, depth=2, heads=4, n_classes=60),
        Letters(seed=1103, split="test", n_classes=60),
        CLASSES,
        steps=300,
        batch_size=64,
    ),
    Workload(
        "sums_transformer",
        "character transformer: sums of three digits",
        partial(nets.CharacterTransformer, len(LANGUAGES["sums"].symbols), 12, width=48, depth=2, heads=4),
        Text(seed=1105, language="sums"),
        SYMBOLS,
        steps=500,
        batch_size=64,
    ),
    Workload(
        "brackets_gru",
        "GRU: nested brackets of three kinds",
        partial(nets.CharacterGRU, len(LANGUAGES["brackets"].symbols), width=64),
        Text(seed=1106, language="brackets"),
        SYMBOLS,
        steps=400,
        batch_size=32,
    ),
    Workload(
        "letters_autoencoder",
        "autoencoder of 24 features, mean squared error: 100 printed letters",
        partial(MLP, 784, [128, 24, 128], 784),
        Letters(seed=1103, split="test", n_classes=100, reproduce=True),
        SQUARES,
        steps=1000,
        batch_size=64,
    ),
)
"""Reported; nothing is chosen or meta-trained by them."""

SUITES: dict[str, tuple[Workload, ...]] = {"small": SMALL, "choosing": CHOOSING}
