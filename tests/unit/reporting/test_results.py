import dataclasses
import io
import json

from rich.console import Console

from metasgd.reporting.results import Protocol, TestResult, table
from metasgd.training.callbacks.results import write

RESULT = TestResult(
    loss=[1.6094, 0.0696],
    loss_ci95=[0.0, 0.0063],
    metric=[0.2, 0.97657],
    metric_ci95=[0.0, 0.00228],
    by_task=[0.96, 1.0],
)
PROTOCOL = Protocol(
    metric="accuracy",
    n_way=5,
    k_shot=1,
    n_query=15,
    inner_steps=1,
    adapts="all",
    transductive=True,
    one_alphabet=False,
    data_seed=0,
    source="Omniglot",
    source_options={"eval_rotations": True},
    update_rule="PerParameter",
    checkpoint="best.ckpt",
    outer_steps=4000,
)


def shown(protocol):
    text = io.StringIO()
    Console(width=100, file=text).print(table(RESULT, protocol))
    return text.getvalue()


def test_the_table_says_what_was_found_and_how():
    text = shown(PROTOCOL)
    assert "97.66" in text
    assert "0.23" in text
    assert "0.0696" in text
    assert "5-way 1-shot, 15 queries, 1 inner step, adapts all, transductive (query statistics)" in " ".join(
        text.split()
    )


def test_protocols_in_words():
    replace = dataclasses.replace
    inductive = replace(PROTOCOL, transductive=False, one_alphabet=True, inner_steps=3)
    assert inductive.in_words() == (
        "5-way 1-shot within one alphabet, 15 queries, 3 inner steps, adapts all, inductive (support statistics)"
    )
    curves = replace(PROTOCOL, metric="mse", n_way=1, k_shot=10, transductive=None)
    assert curves.in_words() == "10 points, 15 queries, 1 inner step, adapts all"
    assert "mse" in shown(curves)


def test_the_files_hold_the_same(tmp_path):
    folder = tmp_path / "run"
    write(folder, RESULT, PROTOCOL)
    content = json.loads((folder / "results.json").read_text())
    assert content["test/accuracy"] == 0.97657
    assert content["test/accuracy_ci95"] == 0.00228
    assert content["test/loss_before"] == 1.6094
    assert content["n_tasks"] == 2
    assert content["protocol"]["transductive"] is True
    assert content["protocol"]["source_options"] == {"eval_rotations": True}
    assert (folder / "tasks.csv").read_text() == "task,accuracy\n0,0.96\n1,1\n"
    assert {p.name for p in folder.iterdir()} == {"results.json", "tasks.csv"}
