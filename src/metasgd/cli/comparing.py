"""The progress bar of ``compare``, of one problem or of a suite."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from metasgd.reporting.text import printable

MOST_SAID = 80
"""Characters that stand beside the progress bar."""


@contextmanager
def progress_of(trainings: int) -> Iterator[Callable[[str], None]]:
    """A bar on the standard error; what it yields is called after each training, with what that was."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Comparing", total=trainings)

        def done_with(said: str) -> None:
            progress.update(task, advance=1, description=escape(printable(said, MOST_SAID)))

        yield done_with
