"""Which engine distributes the tasks of a network on a device."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from metasgd.meta import engines
from metasgd.meta.capture import CAPTURES, Capture
from metasgd.meta.engines import Engine, EngineName, Loop, Threads, Vmap
from metasgd.meta.graph import Graph


def choose_engine(
    name: EngineName,
    network: nn.Module,
    device: torch.device,
    captures: Mapping[str, Callable[[], Capture]] = CAPTURES,
) -> tuple[Engine, str]:
    """The engine of that name, or for ``auto`` the one expected to be fastest; and why, in a line.

    On a CPU, tasks of a convolutional network keep a core busy each and grouped convolutions are slow, so
    they are distributed over threads; tasks of a small dense network are far too small for that and are stacked.
    On other devices stacks fill the machine, and where their work can be recorded, it is.

    Args:
        name: as the user gave it.
        network: f.
        device: where the tasks will be.
        captures: by the type of the device, what records there.
    """
    threads = engines.CPU_THREADS
    convolutional = any(isinstance(m, nn.modules.conv._ConvNd) for m in network.modules())
    if name == "auto":
        on_cpu = device.type == "cpu"
        chosen: EngineName = "threads" if convolutional and on_cpu and threads > 1 else "vmap"
        chosen = "loop" if convolutional and on_cpu and threads == 1 else chosen
        chosen = "graph" if device.type in captures else chosen
        kind = "a convolutional" if convolutional else "a dense"
        reason = f"{chosen}, chosen for {kind} network on {device.type} with {threads} CPU threads"
    elif name == "graph" and device.type not in captures:
        chosen, reason = "vmap", f"vmap in place of graph, which {device.type} devices cannot record"
    else:
        chosen, reason = name, f"{name}, as engine asks"
    if chosen == "threads":
        return Threads(threads), reason
    if chosen == "graph":
        return Graph(Vmap(), captures[device.type]()), reason
    return (Vmap() if chosen == "vmap" else Loop()), reason


def one_by_one(engine: Engine) -> Engine:
    """The engine for a network that cannot be stacked: a loop, recorded if ``engine`` records."""
    return engine.over(Loop()) if isinstance(engine, Graph) else Loop()
