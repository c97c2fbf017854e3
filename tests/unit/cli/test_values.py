"""null and numbers beyond 64 bits, in every place where the parser does not see what a class takes."""

import pytest

from metasgd.cli.values import validate_values
from metasgd.errors import UserError
from metasgd.runtime.process import most_workers
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule

CLASSES = {"model": MetaSGDModule, "data": EpisodicDataModule}


def network(**options):
    return {"network": {"class_path": "metasgd.nn.Conv4", "init_args": options}}


def source(cls, **options):
    return {"source": {"class_path": f"metasgd.data.{cls}", "init_args": options}}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": network(head=None)}, "model.network.init_args.head is null, which Conv4 does not take"),
        ({"model": network(width=None)}, "model.network.init_args.width is null"),
        ({"model": {"inner_steps": None}}, "model.inner_steps is null"),
        ({"model": {"outer": {"alternate": None}}}, "model.outer.alternate is null, which OuterProblem does not take"),
        ({"model": {"loss": None}}, "model.loss is null"),
        ({"data": source("ImageFolder", fit=None)}, "data.source.init_args.fit is null, which ImageFolder"),
        ({"data": source("Omniglot", rotations=None)}, "data.source.init_args.rotations is null"),
        ({"data": {"root": None}}, "data.root is null"),
        ({"data": {"val_tasks": 10**20}}, "data.val_tasks is 100000000000000000000: a whole number of at most"),
        ({"model": network(width=[8, -(10**20)])}, "model.network.init_args.width is -100000000000000000000"),
        ({"model": {"outer": {"rule_settings": {"lr": 10**20}}}}, "model.outer.rule_settings.lr is 1000"),
    ],
)
def test_what_no_class_takes_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        validate_values(options, CLASSES)


def test_all_in_one_message():
    with pytest.raises(UserError) as refused:
        validate_values({"model": network(head=None, width=None), "data": {"seed": None}}, CLASSES)
    assert len(refused.value.problems) == 3


def test_null_may_stand_where_a_class_takes_it():
    adam = {"class_path": "torch.optim.Adam", "init_args": {"fused": None, "foreach": None, "lr": 0.1}}
    options = {
        "model": {
            "eval_inner_steps": None,
            "outer": {"scheduler": None, "gradient_clip_norm": None, "optimizer": adam},
        },
        "data": {"cache_dir": None, "eval_n_query": None, "seed": 2**63 - 1},
    }
    validate_values(options, CLASSES)


def test_sizes_that_would_never_end_are_refused():
    for option, value in (("val_tasks", 10**12), ("meta_batch_size", 10**12), ("num_workers", most_workers() + 1)):
        with pytest.raises(UserError, match=f"data.{option} is {value}: at most"):
            EpisodicDataModule(None, **{option: value})
    for option in ("n_way", "k_shot", "n_query", "eval_n_query"):
        with pytest.raises(UserError, match=f"data.{option.removeprefix('eval_')} is 1000001: at most 1000000"):
            EpisodicDataModule(None, **{option: 1_000_001})
