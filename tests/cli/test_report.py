"""One page about a run: what is on it, that it needs nothing beside it, and how a browser shows it."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from markupsafe import escape
from PIL import Image
from support.commands import succeeded
from support.runs import TINY

from metasgd.cli.hard_pairs import hardest_pairs
from metasgd.cli.report import recorded_in, report
from metasgd.data.class_pool import ClassPool
from metasgd.episode import Episode
from metasgd.errors import UserError
from metasgd.reporting.page import Curve, HardPair, Page, page
from metasgd.reporting.text import printable, shell_command

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
VOID = {"meta", "link", "img", "br"}


class Wellformed(HTMLParser):
    """Fails on a tag that is not closed by its own."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href") and not value.startswith(("data:", "#")):
                self.outside.append(value)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(content: str) -> Wellformed:
    found = Wellformed()
    found.feed(content)
    return found


@pytest.fixture(scope="module")
def written(drawings_run) -> Path:
    """The page of a run on pictures, made from the folder that the run was started in."""
    folder = drawings_run.parents[2]
    run = drawings_run.relative_to(folder)
    succeeded("report", str(run), "--tasks", "12", "--output", "page.html", cwd=folder)
    return folder / "page.html"


def test_the_page_has_every_section_and_stands_alone(written):
    content = written.read_text()
    found = parsed(content)
    assert found.open == []
    assert found.outside == []
    assert "<script" not in content
    assert re.findall(r"<h2>(.*?)</h2>", content) == [
        "Figures",
        "Curves",
        "By inner step",
        "Example tasks",
        "Learned rates",
        "Hardest pairs",
        "Settings",
        "Repeat it",
    ]
    # loss and accuracy, inner steps, three tasks, rates and those of the first convolution
    assert content.count("<svg") == 2 + 1 + 3 + 2
    assert "test accuracy, 12 tasks, now" in content
    assert "<td>body.0.0.weight</td><td>108</td>" in content
    assert re.search(r"<td>c20\d<br><img", content)
    assert re.search(r"python -m metasgd fit --config runs/image_folder/version_0/config.yaml", content)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed to open the page in")
def test_a_real_browser_shows_it(written, tmp_path):
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--window-size=1200,3400", f"--screenshot={tmp_path / 'page.png'}"]
    command = [BROWSER, *options, written.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(tmp_path / "page.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[:2] == (3400, 1200)
    blue, orange = (np.abs(pixels - colour).max(axis=2) < 30 for colour in ((31, 119, 180), (255, 127, 14)))
    assert blue.sum() > 100  # the curves of training and of the inner steps
    assert orange.sum() > 100  # those of validation
    assert (pixels[2500:].std(axis=(1, 2)) > 1).mean() > 0.2  # something stands in the lower part too


def test_a_regression_without_its_test_tasks_still_has_a_page(metasgd, tmp_path):
    assert metasgd("fit", *TINY).returncode == 0
    done = metasgd("report", "runs/sinusoid/version_0", "--tasks", "5")
    assert done.returncode == 0, done.stderr
    content = (tmp_path / "runs/sinusoid/version_0/report.html").read_text()
    assert "test mse, 5 tasks, now" in content
    # validations came after 4 and 8 outer steps, and the best of them was saved
    [saved] = re.findall(r"best.ckpt (after \d+ outer steps)", content)
    [best] = re.findall(r"best val mse</td><td>[\d.]+ (after \d+ outer steps)", content)
    assert saved == best
    assert saved in ("after 4 outer steps", "after 8 outer steps")
    assert "Hardest pairs" not in content


@pytest.mark.parametrize(
    ("make", "arguments", "said"),
    [
        ((), (), "no config.yaml is there"),
        (("config.yaml",), (), "has no checkpoint yet"),
        (("config.yaml", "checkpoints/best.ckpt"), ("--tasks", "1"), "--tasks is 1"),
        (("config.yaml", "checkpoints/best.ckpt"), (), "damaged, incomplete or no checkpoint"),
    ],
)
def test_what_is_no_run_is_refused(metasgd, tmp_path, make, arguments, said):
    for name in make:
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("model: {}")
    done = metasgd("report", "run", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("problem: {}\nnetwork: {}\n", "its config.yaml is of train or compare, but report is for runs of fit"),
        ("other: 1\n", "its config.yaml is not of a run of fit"),
        ("a: [", "its config.yaml is no YAML"),
    ],
)
def test_a_run_of_another_command_is_refused(tmp_path, config, said):
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(UserError, match=said):
        report(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), None])
def test_figures_that_are_not_finite_are_said_to_be_so(bad, tmp_path):
    recorded = {"test/mse": bad, "test/mse_ci95": bad, "n_tasks": 40, "protocol": {"in_words": "5 points"}}
    (tmp_path / "results.json").write_text(json.dumps(recorded))
    about = Page(
        title="run",
        metric="mse",
        checkpoint="best.ckpt",
        config={},
        changed={},
        examples=[],
        paths=None,
        curves=[Curve("mse", {"val": ([3, 7, 11], [float("nan"), 0.5, 0.7])})],
        rates={},
        start=0.1,
        reached=None,
        first_convolution=None,
        measured=torch.full((3, 2), torch.nan),
        pairs=[],
        missing="",
        recorded=recorded_in(tmp_path / "results.json"),
        commands=[],
    )
    content = page(about)
    assert "<td>test mse, 3 tasks, now</td><td>not finite</td>" in content
    assert "<td>test mse, 40 tasks, results.json</td><td>not finite (5 points)</td>" in content
    assert "<td>best val mse</td><td>0.5000 after 8 outer steps</td>" in content
    nothing = replace(about, curves=[Curve("mse", {"val": ([3], [float("nan")])})])
    assert "best val mse" not in page(nothing)


def test_a_record_that_is_damaged_is_named(tmp_path):
    assert recorded_in(tmp_path / "results.json") is None
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results.json is damaged"):
        recorded_in(tmp_path / "results.json")


def test_the_hardest_pairs_counted_by_hand():
    """Two tasks over classes a, b, c, d: b is taken for c three times in four, c for b once; a for d once in four."""
    images = np.arange(8, dtype=np.uint8).reshape(4, 2, 1, 1, 1)
    pool = ClassPool.of_equal_counts(images, ("a", "b", "c", "d"), np.zeros(4, dtype=np.int64))
    truth = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]]).expand(2, -1)
    empty = torch.zeros(2, 0)
    tasks = Episode(empty, empty, empty, truth, torch.tensor([[1, 2], [3, 0]]), torch.arange(2))
    answers = torch.tensor([[1, 1, 1, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 0]])
    first, second = hardest_pairs(pool, [tasks], [answers])
    assert (first.names, first.wrong, first.asked) == (("b", "c"), 4, 8)
    assert (second.names, second.wrong, second.asked) == (("a", "d"), 1, 8)
    assert [int(p[0, 0, 0]) for p in first.pictures[1]] == [4, 5]


@pytest.mark.parametrize(
    "name", ["[/red]", "$\\frac$", "<script>alert(1)</script>", "\u202ea\x1b[2J\x00", "x" * 9000, "ש & \n'\""]
)
def test_no_text_of_a_user_is_read_as_something_else(name):
    square = [np.zeros((1, 2, 2), dtype=np.uint8)]
    about = Page(
        title=name,
        metric="accuracy",
        checkpoint=name,
        config={"model": {name: name}, "data": {"classes": [name]}},
        changed={"model": {name: name}, "data": {"classes": [name]}},
        examples=[],
        paths=None,
        curves=[],
        rates={name: torch.tensor([1.0])},
        start=0.1,
        reached=None,
        first_convolution=None,
        measured=torch.tensor([[0.2], [0.4]]),
        pairs=[HardPair((name, name), (square, square), 3, 4)],
        missing=name,
        recorded=None,
        commands=[shell_command(["report", name])],
    )
    content = page(about)
    found = parsed(content)
    assert found.open == []
    assert "<script>" not in content
    assert not set(content) & {"\x1b", "\x00", "\u202e"}
    assert f"<td>{escape(printable(name, 2000))}</td>" in content


def test_names_from_folders_cannot_break_the_page():
    square = [np.zeros((3, 2, 2), dtype=np.uint8)]
    about = Page(
        title="<run> & co",
        metric="accuracy",
        checkpoint="best.ckpt",
        config={"model": {"note": "<b>"}},
        changed={"model": {"note": "<b>"}},
        examples=[],
        paths=None,
        curves=[Curve("accuracy", {"val": ([1, 2, 3], [0.2, 0.9, 0.5])})],
        rates={"w": torch.tensor([-1.0, 1.0]), "broken": torch.tensor([torch.nan])},
        start=0.1,
        reached=None,
        first_convolution=None,
        measured=torch.tensor([[0.2, 0.5], [0.4, 0.7]]),
        pairs=[HardPair(("<script>", "b"), (square, square), 3, 4)],
        missing="",
        recorded=None,
        commands=["python -m metasgd fit --config 'a & b'"],
    )
    content = page(about)
    assert parsed(content).open == []
    assert "<script>" not in content
    assert "&lt;run&gt; &amp; co" in content
    assert "90.00 % after 3 outer steps" in content
    assert "60.00 ± 19.60 %" in content  # 1.96 · 0.1414 / √2
    assert "<td>50.0%</td>" in content
