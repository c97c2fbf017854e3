"""Names, messages and pages use the field's words; those that once stood in their place do not come back."""

import re

import pytest
from support.runs import ROOT

OWN_WORDS = {
    r"judg(e|es|ed|ing|ement|ments?)": "evaluate",
    "told": "given, named",
    "handed": "given",
    "pulled": "VJP, gradient with respect to the input",
    "turned": "rotated",
    "kept": "saved",
    r"knobs?": "learning rate",
    r"(go|goes|going|gone|went) on": "resume, continue",
    "begun anew": "restart",
    "ordinary": "supervised",
}
"""Words that only this project understood, and the field's."""
OWN_WORD = re.compile(rf"\b({'|'.join(OWN_WORDS)})\b", re.IGNORECASE)
ALLOWED = {
    ("told", "src/metasgd/optim/loss.py"),  # scripts replace metasgd.optimizer.told
    ("told", "src/metasgd/optim/learned_optimizer.py"),
    ("told", "tests/unit/optim/test_training_conditions.py"),
}
FILES = [
    path
    for pattern in ("*.md", "docs/*.md", "configs/*", "cluster/*", "examples/*.py", "src/**/*", "tests/**/*.py")
    for path in sorted(ROOT.glob(pattern))
    if path.suffix in (".md", ".yaml", ".sh", ".py", ".j2") and path.name != "test_words.py"
]


def words_of(text: str) -> str:
    """The text with the words of its names apart: ``goes_on`` and ``GoesOn`` are ``goes on``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_|\n *(?:# |> )?", " ", text)


@pytest.mark.parametrize(
    "text", ["test_it_goes_on", "KeptRuns", "what\n    # goes\n    # on", "LARGEST_KEPT", "is told."]
)
def test_an_own_word_would_be_found(text):
    assert OWN_WORD.search(words_of(text))


@pytest.mark.parametrize("text", ["keeps its place", "go_one_after_the_other", "in turn", "extraordinary"])
def test_words_that_everybody_knows_are_no_others(text):
    assert not OWN_WORD.search(words_of(text))


def test_everything_that_is_read_uses_the_fields_words():
    found = {
        (match[0].lower(), str(path.relative_to(ROOT)))
        for path in FILES
        for match in OWN_WORD.finditer(words_of(path.read_text()))
    }
    assert found == ALLOWED
