"""The files that people copy to a cluster, and the Dockerfile: checked, and run as far as one machine allows."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.agents import ENVIRONMENT, Agent, free_port, succeeded
from support.runs import ROOT, TINY, state
from torch.distributed.run import config_from_args, parse_args

from metasgd.cli.main import main

CLUSTER = ROOT / "cluster"
SCRIPTS = sorted([*CLUSTER.glob("*.sh"), *(ROOT / "tests" / "container").glob("*.sh")])
BIN = Path(sys.executable).parent
ON_PATH = ENVIRONMENT | {"PATH": f"{BIN}:{os.environ['PATH']}"}
CONFIG = ROOT / "configs" / "sinusoid.yaml"


def tool(name):
    """A linter, as the dev extra installs it."""
    found = shutil.which(name, path=ON_PATH["PATH"])
    if found is None:
        pytest.skip(f"{name} is not installed: pip install -e '.[dev]'")
    return found


def documents(name):
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def test_the_files_are_there():
    assert {p.name for p in CLUSTER.iterdir()} == {
        "slurm.sh",
        "torchrun.sh",
        "job.yaml",
        "pytorchjob.yaml",
        "volume.yaml",
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_a_script_is_sound(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    done = subprocess.run([tool("shellcheck"), script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_slurm_reads_all_of_its_options():
    """It stops reading them at the first command."""
    lines = (CLUSTER / "slurm.sh").read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert len(options) > 5
    assert max(options) < first_command


def test_the_dockerfile_is_sound():
    done = subprocess.run([tool("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_is_laid_in_the_order_in_which_things_change():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    order = [
        "ARG BASE=python:3",
        "FROM ${BASE}",
        "RUN pip install ${TORCH_INDEX",
        "COPY pyproject.toml",
        "COPY src",
        "USER 1000",
    ]
    places = [next(i for i, line in enumerate(lines) if line.startswith(start)) for start in order]
    assert places == sorted(places)
    assert lines[-2:] == ['ENTRYPOINT ["tini", "--"]', 'CMD ["python", "-m", "metasgd", "--help"]']


def test_the_image_is_given_the_files_that_it_copies():
    included = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert included == {name for names in copied for name in names.split()}
    assert all((ROOT / name).exists() for name in included)


def test_the_lock_has_a_version_of_every_dependency_that_fits():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    }
    arguments = dict(re.findall(r"^ARG (TORCH|TORCHVISION)=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    locked |= {name.lower(): version for name, version in arguments.items()}
    wanted = [Requirement(line) for line in project["dependencies"]]
    assert {canonicalize_name(r.name) for r in wanted} <= set(locked)
    assert not [str(r) for r in wanted if locked[canonicalize_name(r.name)] not in r.specifier]


@pytest.mark.parametrize("name", ["volume.yaml", "job.yaml"])
def test_a_manifest_fits_the_schema_of_kubernetes(name):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install -e '.[dev]'")
    for document in documents(name):
        kubernetes_validate.validate(document, "1.30", strict=True)


def test_the_pytorchjob_has_the_fields_that_its_operator_knows():
    """Those of kubeflow.org/v1; its pods are held to the schema of Kubernetes."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install -e '.[dev]'")
    (job,) = documents("pytorchjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    spec, policy = job["spec"], job["spec"]["elasticPolicy"]
    assert spec.keys() <= {"elasticPolicy", "nprocPerNode", "pytorchReplicaSpecs", "runPolicy"}
    assert isinstance(spec["nprocPerNode"], str)
    assert policy.keys() <= {"rdzvBackend", "rdzvId", "rdzvPort", "minReplicas", "maxReplicas", "maxRestarts"}
    assert spec["runPolicy"].keys() <= {"cleanPodPolicy", "backoffLimit", "activeDeadlineSeconds", "suspend"}
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    assert worker.keys() == {"replicas", "restartPolicy", "template"}
    assert worker["replicas"] == policy["minReplicas"] == policy["maxReplicas"]
    assert worker["restartPolicy"] in ("Always", "OnFailure", "Never", "ExitCode")
    assert worker["template"]["spec"]["containers"][0]["name"] == "pytorch"
    pods = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": worker["template"]}
    kubernetes_validate.validate(pods, "1.30", strict=True)


def container(name):
    (job,) = documents(name)
    spec = job["spec"]
    template = spec["template"] if name == "job.yaml" else spec["pytorchReplicaSpecs"]["Worker"]["template"]
    return job, template["spec"]["containers"][0]


@pytest.mark.parametrize("name", ["job.yaml", "pytorchjob.yaml"])
def test_a_manifest_starts_a_command_that_parses(name, monkeypatch, capsys):
    job, pod = container(name)
    arguments = pod["args"][pod["args"].index("metasgd") + 1 :]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["metasgd"])
    with pytest.raises(SystemExit) as leaving:
        main([*arguments, "--print_config"])
    assert leaving.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["ckpt_path"] == "resume"
    assert job["metadata"]["name"] == f"metasgd-{printed['trainer']['logger']['init_args']['version']}"
    assert {m["mountPath"] for m in pod["volumeMounts"]} >= {"/app/runs", "/app/data"}


OPTIONS = TINY[TINY.index("--trainer.max_steps") :]


def test_the_script_for_torchrun_trains_on_two_hosts(tmp_path):
    places = {"HOSTS": "2", "PER_HOST": "1", "FIRST": f"127.0.0.1:{free_port()}", "RUN": "3", "CONFIG": str(CONFIG)}
    command = [CLUSTER / "torchrun.sh", *OPTIONS]
    hosts = [subprocess.Popen(command, cwd=tmp_path, env=ON_PATH | places, stderr=subprocess.DEVNULL) for _ in "ab"]
    assert [host.wait(240) for host in hosts] == [0, 0]
    assert state(tmp_path / "runs/sinusoid/version_3/checkpoints/last.ckpt")["global_step"] == 8


def started_by_the_operator():
    """The arguments of torchrun in a pod, and the variables by which the operator says how many there are and where."""
    job, pod = container("pytorchjob.yaml")
    policy = job["spec"]["elasticPolicy"]
    settings = {
        "PET_RDZV_ENDPOINT": f"127.0.0.1:{free_port()}",
        "PET_RDZV_BACKEND": policy["rdzvBackend"],
        "PET_RDZV_ID": policy["rdzvId"],
        "PET_NNODES": f"{policy['minReplicas']}:{policy['maxReplicas']}",
        "PET_MAX_RESTARTS": str(policy["maxRestarts"]),
        "PET_NPROC_PER_NODE": "1",  # the machine's; the manifest asks for its GPUs
    }
    settings |= {variable["name"]: variable["value"] for variable in pod["env"]}
    assert pod["args"][0] == "torchrun"
    config = next(i for i, argument in enumerate(pod["args"]) if argument.startswith("--config"))
    return [*pod["args"][1:config], f"--config={CONFIG}", *pod["args"][config + 1 :], *OPTIONS], settings


def test_torchrun_reads_of_the_operator_what_the_script_for_torchrun_says(monkeypatch):
    arguments, settings = started_by_the_operator()
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    parsed = parse_args(arguments)
    config, _, command = config_from_args(parsed)
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node, config.max_restarts) == (2, 2, 1, 10)
    assert (config.rdzv_backend, config.rdzv_endpoint) == ("c10d", settings["PET_RDZV_ENDPOINT"])
    assert config.run_id == "metasgd-1"
    assert command[-len(arguments) + 1 :] == arguments[1:]
    script = (CLUSTER / "torchrun.sh").read_text()
    assert all(f"{name}={value}" in script for name, value in settings.items() if not name.startswith("PET_"))


@pytest.mark.slow
def test_the_pods_of_the_pytorchjob_train_together(tmp_path):
    arguments, settings = started_by_the_operator()
    succeeded(*(Agent(*arguments, cwd=tmp_path, environment=ENVIRONMENT | settings) for _ in "ab"))
    assert state(tmp_path / "runs/sinusoid/version_1/checkpoints/last.ckpt")["global_step"] == 8


SRUN = """\
#!/usr/bin/env bash
# srun's part: all tasks at once, each knowing its number; one that fails ends the others
[ "$1" = --kill-on-bad-exit=1 ] && shift
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_PROCID=$task SLURM_NODEID=$task SLURM_LOCALID=0 "$@" &
done
for ((task = 0; task < SLURM_NTASKS; task++)); do wait -n || { code=$?; kill $(jobs -p); exit $code; }; done
"""


def test_the_script_for_slurm_starts_a_run_and_resumes_it(tmp_path):
    script = (CLUSTER / "slurm.sh").read_text()
    for setting, value in (("config", CONFIG), ("environment", "environment")):
        script, changed = re.subn(f"^{setting}=.*$", f"{setting}={value}", script, flags=re.MULTILINE)
        assert changed == 1
    (tmp_path / "job").write_text(script)
    (tmp_path / "environment" / "bin").mkdir(parents=True)
    (tmp_path / "environment" / "bin" / "activate").write_text(f"PATH={tmp_path}:$PATH\n")
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "metasgd",
        "SLURM_NNODES": "2",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NODELIST": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    for steps in ("4", "8"):  # the second is the job requeued
        command = ["bash", "job", *OPTIONS, "--trainer.max_steps", steps]
        done = subprocess.run(
            command, cwd=tmp_path, env=ON_PATH | slurm, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        assert state(tmp_path / "runs/sinusoid/version_4711/checkpoints/last.ckpt")["global_step"] == int(steps)
    assert [p.name for p in (tmp_path / "runs/sinusoid").iterdir()] == ["version_4711"]
