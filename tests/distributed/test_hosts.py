"""Several hosts, with a network between them: two network namespaces, joined by a cable of virtual Ethernet.

Each has two processes, under an agent of torchrun of its own; the real command line.
"""

import os
import shutil
import signal
import subprocess

import pytest
from support.agents import ENVIRONMENT, Agent, succeeded, wait_for
from support.hosts import DOUBLE, JOB, JOB_RUN, close
from support.runs import TINY, scalars, state

pytestmark = pytest.mark.slow  # each starts and kills several trainings

PORT = 29400  # each namespace has its ports to itself
LIMIT = "0:0:30"
"""How long a process waits for the others, as ``h:m:s``."""


def ip(*arguments):
    subprocess.run(["ip", *map(str, arguments)], check=True, capture_output=True, text=True)


class Hosts:
    """Two hosts a and b, 10.77.0.1 and 10.77.0.2, of two processes each."""

    def __init__(self):
        self.names = [f"metasgd-{os.getpid()}-{name}" for name in "ab"]
        self.cable = [f"msgd{os.getpid()}{name}"[-15:] for name in "ab"]

    def lay(self):
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", self.cable[0], "type", "veth", "peer", "name", self.cable[1])
        for number, (name, end) in enumerate(zip(self.names, self.cable, strict=True), start=1):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
            # TCP gives up a connection that no longer answers (docs/cluster.md); sooner than advised, to be quick
            ip("netns", "exec", name, "sysctl", "-w", "net.ipv4.tcp_retries2=6")

    def cut(self):
        """Nothing more passes between the two, which both live on."""
        ip("-n", self.names[1], "link", "set", self.cable[1], "down")

    def mend(self):
        ip("-n", self.names[1], "link", "set", self.cable[1], "up")

    def lose_b(self):
        """Host b is gone as if its power had failed: nothing more arrives from it, not even a goodbye."""
        self.cut()
        pids = subprocess.run(["ip", "netns", "pids", self.names[1]], capture_output=True, text=True, check=True)
        for pid in pids.stdout.split():
            os.kill(int(pid), signal.SIGKILL)

    def remove(self):
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def agent(self, host, *arguments, cwd, restarts=0):
        where = ["--nnodes", 2, "--nproc-per-node", 2, "--max-restarts", restarts, "--rdzv-id", "hosts"]
        where += [
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            f"10.77.0.1:{PORT}",
            "--local-addr",
            f"10.77.0.{host + 1}",
        ]
        # torchrun knows the first host by its name, which both have here
        where += ["--rdzv-conf", f"is_host={int(host == 0)}"]
        environment = ENVIRONMENT | {"GLOO_SOCKET_IFNAME": self.cable[host], "TP_SOCKET_IFNAME": self.cable[host]}
        prefix = ["ip", "netns", "exec", self.names[host]]
        return Agent(*where, "-m", "metasgd", *arguments, cwd=cwd, prefix=prefix, environment=environment)


@pytest.fixture(scope="module")
def hosts():
    if shutil.which("ip") is None:
        pytest.skip("needs the ip command (Debian: iproute2)")
    hosts = Hosts()
    try:
        hosts.lay()
    except subprocess.CalledProcessError as error:
        hosts.remove()
        pytest.skip(f"may not make network namespaces here: {error.stderr.strip()}")
    yield hosts
    hosts.remove()


def test_two_hosts_of_two_processes_train_as_one_process(hosts, tmp_path, metasgd):
    succeeded(*(hosts.agent(h, "fit", *TINY, *DOUBLE, *JOB, cwd=tmp_path) for h in (0, 1)))
    elsewhere = ["--trainer.logger.init_args.save_dir", "alone"]
    done = metasgd("fit", *TINY, *DOUBLE, *elsewhere)
    assert done.returncode == 0, done.stderr
    together, alone = tmp_path / JOB_RUN, tmp_path / "alone/sinusoid/version_0"
    for name in ("last", "best"):
        a, b = (state(run / "checkpoints" / f"{name}.ckpt")["state_dict"] for run in (alone, together))
        assert close(a, b)
    assert sorted(p.name for p in (together / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert len(list(together.glob("events.*"))) == 1
    assert len(list((tmp_path / "runs/sinusoid").iterdir())) == 1


LONGER = [
    *TINY,
    *("--trainer.max_steps", "300", "--trainer.val_check_interval", "100", "--trainer.log_every_n_steps", "7"),
    *("--last_checkpoint.every_n_steps", "20", *JOB),
    *("--trainer.strategy", "DDPStrategy", "--trainer.strategy.timeout", LIMIT),
]


def test_a_host_that_disappears_ends_the_others_in_time_and_the_job_resumes(hosts, tmp_path):
    a, b = (hosts.agent(h, "fit", *LONGER, cwd=tmp_path) for h in (0, 1))
    run = tmp_path / JOB_RUN
    last = run / "checkpoints" / "last.ckpt"
    wait_for(last)
    hosts.lose_b()
    try:
        # nothing tells host a; only the limit ends its waiting
        assert a.exit_code() == 1
        assert b.exit_code() == -signal.SIGKILL
    finally:
        hosts.mend()
    assert 0 < state(last)["global_step"] < 300
    succeeded(*(hosts.agent(h, "fit", *LONGER, cwd=tmp_path) for h in (0, 1)))
    assert state(last)["global_step"] == 300
    assert [step for step, _ in scalars(run, "train/loss")] == list(range(6, 300, 7))


def test_a_cut_link_ends_both_sides_and_the_job_resumes(hosts, tmp_path):
    """The workers by the limit; the agent of b, which waits for the store on a, when TCP gives the connection up."""
    a, b = (hosts.agent(h, "fit", *LONGER, "--trainer.max_steps", "100000", cwd=tmp_path) for h in (0, 1))
    last = tmp_path / JOB_RUN / "checkpoints" / "last.ckpt"
    wait_for(last)
    hosts.cut()
    try:
        for agent in (a, b):
            assert agent.exit_code() == 1
            assert "or has not answered within the time" in agent.printed()
    finally:
        hosts.mend()
    done = state(last)["global_step"]
    more = ["--trainer.max_steps", str(done + 2)]
    succeeded(*(hosts.agent(h, "fit", *LONGER, *more, cwd=tmp_path) for h in (0, 1)))
    assert state(last)["global_step"] == done + 2
