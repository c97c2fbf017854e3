"""The configuration that a command was called with, for the record of its run."""

from contextvars import ContextVar

CONFIG: ContextVar[str | None] = ContextVar("config", default=None)
"""As YAML, which ``--config`` takes again; None where the command's function was called from Python."""
