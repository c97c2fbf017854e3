from types import SimpleNamespace

import pytest
import torch

from metasgd.data.sinusoid import Sinusoid
from metasgd.errors import UserError
from metasgd.training.datamodule import EpisodicDataModule


def module(rank=0, world_size=1, done=0, max_steps=6, stage="fit", device="cpu", **options):
    data = EpisodicDataModule(Sinusoid(), n_way=1, k_shot=5, n_query=10, **options)
    progress = SimpleNamespace(current=SimpleNamespace(processed=done))
    data.trainer = SimpleNamespace(
        max_steps=max_steps,
        global_rank=rank,
        world_size=world_size,
        strategy=SimpleNamespace(root_device=torch.device(device)),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
    )
    data.prepare_data()
    data.setup(stage)
    return data


def indices(loader):
    return [batch.task_index.tolist() for batch in loader]


def test_outer_step_t_has_the_tasks_from_t_times_b():
    assert indices(module(meta_batch_size=4, max_steps=3).train_dataloader()) == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]


def test_two_processes_share_the_tasks_of_one():
    parts = [indices(module(rank, 2, meta_batch_size=4, max_steps=3).train_dataloader()) for rank in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_for_a_gpu_are_copied_from_pinned_memory(device):
    data = module(device=device)
    assert [loader.pin_memory for loader in (data.train_dataloader(), data.val_dataloader())] == [device == "cuda"] * 2


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_covers_each_task_once(world_size):
    seen = []
    for rank in range(world_size):
        data = module(rank, world_size, stage="test", meta_batch_size=6, test_tasks=100)
        for block in indices(data.test_dataloader()):
            seen += block
    assert sorted(seen) == list(range(100))


def test_a_resumed_run_continues_with_the_next_outer_step():
    loader = module(meta_batch_size=2, max_steps=5, done=3).train_dataloader()
    assert indices(loader) == [[6, 7], [8, 9]]
    assert len(loader) == 5  # the Trainer counts the three that are done


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_same_index_gives_the_same_task_whatever_the_workers(split):
    drawn = []
    for num_workers in (0, 1, 2):
        data = module(meta_batch_size=4, num_workers=num_workers, val_tasks=24)
        loader = data.train_dataloader() if split == "train" else data.val_dataloader()
        drawn.append(list(loader))
    for other in drawn[1:]:
        assert len(other) == len(drawn[0])
        for a, b in zip(drawn[0], other, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_training_validation_and_test_differ():
    fit, test = module(), module(stage="test")
    loaders = fit.train_dataloader(), fit.val_dataloader(), test.test_dataloader()
    firsts = [next(iter(loader)).support_y for loader in loaders]
    assert not torch.equal(firsts[0], firsts[1])
    assert not torch.equal(firsts[1], firsts[2])


def test_a_meta_batch_that_cannot_be_divided_is_refused_with_those_that_can():
    with pytest.raises(UserError, match="meta_batch_size is 7, which cannot be divided over 3 processes: use 6 or 9"):
        module(world_size=3, meta_batch_size=7)
    with pytest.raises(UserError, match="use 3$"):
        module(world_size=3, meta_batch_size=2)


def test_all_problems_are_named_together():
    with pytest.raises(UserError) as raised:
        EpisodicDataModule(Sinusoid(), meta_batch_size=0, val_tasks=1, test_tasks=0, seed=-1, num_workers=-1)
    assert len(raised.value.problems) == 5


def test_seeds_up_to_the_largest():
    data = module(seed=2**63 - 1, meta_batch_size=2, max_steps=1)
    assert indices(data.train_dataloader()) == [[0, 1]]
    with pytest.raises(UserError, match=f"data.seed is {2**63}: use at most {2**63 - 1}"):
        EpisodicDataModule(Sinusoid(), seed=2**63)


def test_an_evaluation_may_have_another_number_of_queries():
    data = module(eval_n_query=3, meta_batch_size=2)
    assert next(iter(data.train_dataloader())).query_x.shape[1] == 10
    assert next(iter(data.val_dataloader())).query_x.shape[1] == 3


def test_outer_steps_take_shapes_in_turn():
    data = module(meta_batch_size=4, train_shapes=[(1, 5), (1, 2), (1, 7)])
    shots = [batch.support_x.shape[1] for batch in data.train_dataloader()]
    assert shots == [5, 2, 7, 5, 2, 7]
    assert next(iter(data.val_dataloader())).support_x.shape[1] == 5
    alone = module(meta_batch_size=4, train_shapes=[(1, 2)])
    mixed, only = (list(d.train_dataloader())[1] for d in (data, alone))
    assert all(torch.equal(a, b) for a, b in zip(mixed, only, strict=True))  # a task is of (seed, split, index, shape)


@pytest.mark.parametrize("done", [1, 4])
def test_a_resumed_run_and_another_process_have_the_same_shapes(done):
    shapes = {"meta_batch_size": 4, "train_shapes": [(1, 5), (1, 2)]}
    whole = list(module(**shapes).train_dataloader())
    resumed = list(module(done=done, **shapes).train_dataloader())
    of_second = list(module(rank=1, world_size=2, **shapes).train_dataloader())
    assert all(torch.equal(a.query_y, b.query_y) for a, b in zip(whole[done:], resumed, strict=True))
    assert all(torch.equal(a.support_x[2:], b.support_x) for a, b in zip(whole, of_second, strict=True))


def test_shapes_that_no_outer_step_can_take():
    for shapes, more in (([], {}), ([(1, 5)], {"outer_steps_per_task": 2})):
        with pytest.raises(UserError, match=r"data\.train_shapes is \["):
            module(train_shapes=shapes, **more)
    with pytest.raises(UserError, match="k_shot is 0: at least 1 is needed"):
        module(train_shapes=[(1, 0)])
