import threading

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, largest_difference, moved, tasks_of

from metasgd.meta import engines
from metasgd.meta.engine_choice import choose_engine
from metasgd.meta.engines import Loop, Threads, Vmap, attach_gradient
from metasgd.meta.evaluate import evaluate, merge_evaluations
from metasgd.meta.graph import Graph
from metasgd.meta.meta_gradient import merge_gradients, meta_gradient
from metasgd.nn.networks import MLP, Conv4
from metasgd.rules.gradient_descent import PerParameter
from metasgd.rules.optimizer_network import OptimizerNetwork

ENGINES = {"loop": Loop, "vmap": lambda: Vmap(2), "vmap whole": lambda: Vmap(100), "threads": lambda: Threads(3)}


@pytest.fixture(params=["conv", "dense"])
def work(request):
    """A configuration and five of its tasks."""
    if request.param == "conv":
        return config_of(Conv4(width=3, image_size=12), PerParameter(0.1), 2), tasks_of(5, 3, 1, 2, (1, 12, 12))
    return config_of(MLP(1, [8], 1), OptimizerNetwork(0.05, 0.3), 2, loss=F.mse_loss), curves_of(5, 4, 6)


def gradient_by(engine, config, tasks):
    theta = dict(config.network.named_parameters())
    return engine.run(lambda own, some: meta_gradient(own, theta, some, 2), merge_gradients, config, tasks, 2)


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_gives_the_gradient_of_all_tasks_together(name, work):
    config, tasks = work
    whole = meta_gradient(config, dict(config.network.named_parameters()), tasks, 2)
    found = gradient_by(ENGINES[name](), config, tasks)
    assert largest_difference(found.theta, whole.theta) < 1e-10
    assert largest_difference(found.phi, whole.phi) < 1e-10
    torch.testing.assert_close(found.query_losses, whole.query_losses)
    torch.testing.assert_close(found.outputs, whole.outputs)


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_repeats_itself_to_the_bit(name, work):
    engine = ENGINES[name]()
    first, second = (gradient_by(engine, *work) for _ in range(2))
    assert largest_difference(first.theta, second.theta) == 0
    assert largest_difference(first.phi, second.phi) == 0


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_evaluates_alike(name, work):
    config, tasks = work
    theta = dict(config.network.named_parameters())
    whole = evaluate(config, theta, tasks, 2, [0, 2])
    found = ENGINES[name]().run(
        lambda own, some: evaluate(own, theta, some, 2, [0, 2]), merge_evaluations, config, tasks, 2
    )
    torch.testing.assert_close(found.query_losses, whole.query_losses)
    torch.testing.assert_close(found.outputs, whole.outputs)


@pytest.mark.parametrize("name", ["loop", "vmap"])
def test_all_stays_on_the_device_and_no_value_is_waited_for(name, work, monkeypatch):
    # tensors on meta have no values to read, and refuse to be mixed with those on the CPU
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: False)  # which does not know of meta
    there, tasks = moved(*work, torch.device("meta"))
    theta = dict(there.network.named_parameters())
    engine = ENGINES[name]()
    found = gradient_by(engine, there, tasks)
    evaluated = engine.run(lambda own, some: evaluate(own, theta, some, 2, [0, 2]), merge_evaluations, there, tasks, 2)
    for tensor in (*found.theta.values(), *found.phi.values(), found.query_losses, found.outputs, evaluated.outputs):
        assert tensor.is_meta
    with pytest.raises(RuntimeError, match="device"):
        gradient_by(engine, there, tasks._replace(support_x=work[1].support_x))


def test_threads_never_share_a_network(work):
    config, tasks = work
    seen, lock, all_three = {}, threading.Lock(), threading.Barrier(3, timeout=60)

    def note(own, some):
        if int(some.task_index) < 3:
            all_three.wait()  # so that none of them does the others' work
        with lock:
            seen.setdefault(id(own.network), set()).add(threading.get_ident())
        return gradient_by(Loop(), own, some)

    Threads(3).run(note, merge_gradients, config, tasks, 2)
    assert len(seen) == 3
    assert id(config.network) not in seen


def test_threads_take_the_callers_autocast(work):
    config, tasks = work
    seen = []

    def note(own, some):
        seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return gradient_by(Loop(), config, some)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        Threads(1).run(note, merge_gradients, config, tasks, 2)
    assert set(seen) == {(True, torch.bfloat16)}


def test_delivery_through_backward_gives_every_parameter_the_mean_over_tasks(work):
    config, tasks = work
    theta, phi = dict(config.network.named_parameters()), dict(config.rule.named_parameters())
    found = gradient_by(Loop(), config, tasks)
    attach_gradient(found.query_losses.mean(), found, theta, phi).backward()
    assert largest_difference({n: p.grad * 5 for n, p in theta.items()}, found.theta) < 1e-12
    assert largest_difference({n: p.grad * 5 for n, p in phi.items()}, found.phi) < 1e-12


def test_delivery_passes_by_what_is_frozen(work):
    config, tasks = work
    config.network.requires_grad_(False)
    theta, phi = dict(config.network.named_parameters()), dict(config.rule.named_parameters())
    found = gradient_by(Loop(), config, tasks)
    attach_gradient(found.query_losses.mean(), found, theta, phi).backward()
    assert all(p.grad is None for p in theta.values())
    assert all(p.grad is not None for p in phi.values())


@pytest.mark.parametrize(
    ("name", "network", "threads", "device", "chosen"),
    [
        ("auto", Conv4(width=2), 2, "cpu", Threads),
        ("auto", Conv4(width=2), 1, "cpu", Loop),
        ("auto", MLP(), 2, "cpu", Vmap),
        ("auto", Conv4(width=2), 2, "cuda", Graph),
        ("graph", MLP(), 2, "cuda", Graph),
        ("graph", MLP(), 2, "cpu", Vmap),  # where nothing can be recorded
        ("loop", MLP(), 2, "cpu", Loop),
        ("vmap", Conv4(width=2), 2, "cpu", Vmap),
        ("threads", MLP(), 2, "cpu", Threads),
    ],
)
def test_choice_by_device_and_network(monkeypatch, name, network, threads, device, chosen):
    monkeypatch.setattr(engines, "CPU_THREADS", threads)
    engine, reason = choose_engine(name, network, torch.device(device))
    assert type(engine) is chosen
    assert chosen.__name__.lower() in reason
