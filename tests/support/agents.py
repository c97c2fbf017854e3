"""torchrun as it is started on a host, for tests: each agent logs to a file and ends with its test."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ENVIRONMENT = {
    **os.environ,
    "COLUMNS": "200",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # see metasgd.runtime.launch
}


class Agent:
    """``python -m torch.distributed.run ARGUMENTS``, in a folder, and behind a prefix such as ``ip netns exec``."""

    def __init__(
        self,
        *arguments: str | int | Path,
        cwd: Path,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] = ENVIRONMENT,
    ) -> None:
        self.log = Path(cwd) / f"log.{time.monotonic_ns()}"
        command = [*prefix, sys.executable, "-m", "torch.distributed.run", *arguments]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command], cwd=cwd, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def printed(self) -> str:
        return self.log.read_text()

    def exit_code(self, timeout: float = 600) -> int:
        """Wait for its end; stop it, and so its workers, if it does not come."""
        try:
            return self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.process.terminate()
                self.process.wait(60)


def succeeded(*agents: Agent) -> None:
    """Wait for all, then hold that they ended well."""
    codes = [agent.exit_code() for agent in agents]
    assert codes == [0] * len(agents), "\n".join(agent.printed() for agent in agents)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def worker(run_id: str, rank: int) -> int:
    """The process of that rank, by the variables that torchrun gave it."""
    wanted = {f"TORCHELASTIC_RUN_ID={run_id}".encode(), f"RANK={rank}".encode()}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            variables = (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended as we looked
        if wanted <= set(variables):
            return int(place.name)
    raise AssertionError(f"no process of rank {rank}")


def wait_for(file: Path, timeout: float = 300) -> None:
    """Until it is there; looks often, so that what follows happens early in a run."""
    deadline = time.monotonic() + timeout
    while not file.exists():
        assert time.monotonic() < deadline, f"no {file} after {timeout} s"
        time.sleep(0.01)
