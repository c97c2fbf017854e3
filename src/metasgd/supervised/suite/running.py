"""All contenders on all workloads: the rates of those that are tuned are searched, then every seed is trained."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence

from metasgd.supervised.comparison import Effort, Row, Train, best_of, search
from metasgd.supervised.suite.contenders import Contender
from metasgd.supervised.suite.workload import Workload
from metasgd.supervised.trainer import Trace

Rows = dict[str, dict[str, Row]]
"""By workload and contender."""
log = logging.getLogger("metasgd")


def run_suite(
    train: Train,
    workloads: Sequence[Workload],
    contenders: Sequence[Contender],
    effort: Effort,
    done: Callable[[str], None],
) -> Rows:
    """Train everything, one workload after the other.

    Args:
        train: one training, of a candidate under the name that ``Contender.on`` gives it.
        workloads: to train on.
        contenders: to train by.
        effort: how often.
        done: called after every training that ended.
    """
    rows: Rows = {}
    for workload in workloads:
        rows[workload.name] = {}
        for contender in contenders:
            candidate = contender.on(workload.name, workload.steps)
            lr, trials = contender.lr, dict[float, float]()
            if contender.tuned:
                trials = search(train, lower, candidate, effort, done, figure=final_loss)
                lr = best_of(lower, trials)
                if at_edge(lr, trials):
                    log.warning(
                        "%s: the best learning rate, %g, lies at the edge of those tried: raise --most_trials",
                        candidate.name,
                        lr,
                    )
            traces = []
            for seed in effort.seeds:
                traces.append(train(candidate, lr, seed))
                done(f"{candidate.name}, seed {seed}")
            rows[workload.name][contender.name] = Row(contender.name, lr, contender.tuned, trials, traces)
    return rows


def at_edge(lr: float, trials: Mapping[float, float]) -> bool:
    """Whether a learning rate was found without another one beyond it that is worse."""
    return len(trials) > 0 and lr in (min(trials), max(trials))


def final_loss(trace: Trace) -> float:
    """By what a suite tunes: the validation loss at the end, which its scores are made of."""
    return trace.val_loss[-1]


def lower(a: float, b: float) -> bool:
    """Whether a is the lower; what is no number is never."""
    return not math.isnan(a) and (math.isnan(b) or a < b)
