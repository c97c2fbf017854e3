"""What a step takes on the device it runs on: when it is over, and the most memory it held."""

import resource

import torch


def device_of(name: str) -> torch.device:
    """For ``--device``: the CPU, or a CUDA device that is there."""
    found = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if name.partition(":")[0] not in found:
        raise SystemExit(f"--device is {name}, but torch finds {' and '.join(found)} alone")
    return torch.device(name)


def finish(device: torch.device) -> None:
    """Wait for what was started on it, which a CUDA device does behind the caller's back."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Peak:
    """The most bytes held since it was made, above those held then: of the process on the CPU, of tensors elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._before = self._most()

    def _most(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def bytes(self) -> int:
        return self._most() - self._before
