"""The workloads that variants are chosen by; they share neither name nor seed with those that are reported."""

from functools import partial

from metasgd.nn.networks import MLP, Conv4
from metasgd.nn.residual import WideResNet
from metasgd.supervised.suite import networks as nets
from metasgd.supervised.suite.data import Letters, Table, Text, Textures
from metasgd.supervised.suite.languages import LANGUAGES
from metasgd.supervised.suite.workload import CLASSES, SQUARES, SYMBOLS, Workload

CHOOSING = (
    Workload(
        "choose_table",
        "MLP: tabular classification, 4 classes",
        partial(MLP, 10, [48], 4),
        Table(seed=2101, n_features=10, n_classes=4),
        CLASSES,
        steps=800,
        batch_size=32,
    ),
    Workload(
        "choose_regression",
        "MLP: tabular regression, targets of mean -8 and standard deviation 300 as they are",
        partial(MLP, 16, [32, 32], 1),
        Table(seed=2102, n_features=16, mean=-8.0, sd=300.0),
        SQUARES,
        steps=800,
        batch_size=64,
    ),
    Workload(
        "choose_distant",
        "MLP: tabular regression, targets of mean -900 and standard deviation 60 as they are",
        partial(MLP, 20, [64], 1),
        Table(seed=2109, n_features=20, mean=-900.0, sd=60.0),
        SQUARES,
        steps=400,
        batch_size=64,
    ),
    Workload(
        "choose_small_targets",
        "MLP of three layers: tabular regression, targets of standard deviation 0.02 as they are",
        partial(MLP, 8, [128, 128, 128], 1),
        Table(seed=2110, n_features=8, mean=0.0, sd=0.02),
        SQUARES,
        steps=1500,
        batch_size=16,
    ),
    Workload(
        "choose_cnn",
        "CNN without normalisation: 40 printed letters of other scripts",
        partial(nets.plain_cnn, (12, 24, 48), 28, 40),
        Letters(seed=2103, split="val", n_classes=40, drawings=30),
        CLASSES,
        steps=500,
        batch_size=32,
    ),
    Workload(
        "choose_transformer",
        "character transformer: differences of two digits",
        partial(nets.CharacterTransformer, len(LANGUAGES["differences"].symbols), 8, width=32, depth=2, heads=2),
        Text(seed=2104, language="differences"),
        SYMBOLS,
        steps=500,
        batch_size=32,
    ),
    Workload(
        "choose_vit",
        "vision transformer of three blocks: 40 printed letters of other scripts",
        partial(nets.VisionTransformer, 28, 14, width=32, depth=3, heads=4, n_classes=40),
        Letters(seed=2103, split="val", n_classes=40, drawings=30),
        CLASSES,
        steps=350,
        batch_size=32,
    ),
    Workload(
        "choose_batchnorm",
        "CNN with BatchNorm: 32 printed letters of other scripts",
        partial(Conv4, 32, head="linear", width=24, running_statistics=True),
        Letters(seed=2106, split="val", n_classes=32, drawings=50),
        CLASSES,
        steps=250,
        batch_size=48,
    ),
    Workload(
        "choose_gru",
        "GRU: differences of two digits",
        partial(nets.CharacterGRU, len(LANGUAGES["differences"].symbols), width=40),
        Text(seed=2104, language="differences"),
        SYMBOLS,
        steps=300,
        batch_size=64,
    ),
    Workload(
        "choose_autoencoder",
        "autoencoder of 12 features, mean squared error: 40 printed letters of other scripts",
        partial(MLP, 784, [64, 12, 64], 784),
        Letters(seed=2103, split="val", n_classes=40, drawings=30, reproduce=True),
        SQUARES,
        steps=600,
        batch_size=32,
    ),
    Workload(
        "choose_wide",
        "MLP of 768 units: 40 printed letters of other scripts",
        partial(MLP, 784, [768], 40),
        Letters(seed=2103, split="val", n_classes=40, drawings=30),
        CLASSES,
        steps=200,
        batch_size=32,
    ),
    Workload(
        "choose_long",
        "tiny MLP, 2,500 steps: tabular classification, 3 classes",
        partial(MLP, 16, [24, 24], 3),
        Table(seed=2107, n_features=16, n_classes=3, rows=6000),
        CLASSES,
        steps=2500,
        batch_size=32,
    ),
    Workload(
        "choose_textures",
        "small residual network: 12 noisy textures in colour",
        partial(WideResNet, 12, head="linear", depth=10, width=1, image_size=16, running_statistics=True),
        Textures(seed=2108, n_classes=12, noise=1.5),
        CLASSES,
        steps=150,
        batch_size=24,
    ),
)
"""To choose between variants by, and to meta-train on; never reported."""
