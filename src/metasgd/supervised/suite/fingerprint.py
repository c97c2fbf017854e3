"""What a training of a suite depends on: by it, one that is done serves a comparison of other contenders or seeds."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any

from metasgd.data.problems import Examples
from metasgd.data.rng import Split
from metasgd.supervised.suite.contenders import Contender
from metasgd.supervised.suite.workload import EVALUATIONS, Workload

DIGITS = 16


def fingerprint(
    contender: Contender, workload: Workload, examples: Mapping[Split, Examples], checkpoint: str | None = None
) -> str:
    """The contender on the workload, with a digest of all but learning rate, seed and code.

    Args:
        contender: who trains.
        workload: on what.
        examples: of each split.
        checkpoint: the digest of a learned optimizer's.
    """
    parts: dict[str, Any] = {
        "network": str(workload.network()),
        "objective": type(workload.objective).__name__,
        "steps": workload.steps,
        "batch_size": workload.batch_size,
        "evaluations": EVALUATIONS,
        "examples": {split: own.digest for split, own in examples.items()},
        "schedule": contender.schedule,
        "checkpoint": checkpoint,
    }
    package = contender.needs[0]
    if not package.startswith("torch."):  # torch's version is among the terms of every training
        parts["version"] = _version_of(package)
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:DIGITS]
    return f"{contender.name} on {workload.name}, {digest}"


@cache
def _version_of(package: str) -> str:
    """Of what a package was installed as, which may have another name: ``dog`` is in ``dog-optimizer``."""
    return metadata.version(metadata.packages_distributions()[package][0])
