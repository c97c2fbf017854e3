"""``python -m metasgd``."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback out of the seconds that importing takes

from metasgd.cli.overview import answer  # noqa: E402


def program() -> None:
    """The command line as a program."""
    answer()
    from metasgd.cli.main import main
    from metasgd.runtime.launch import end

    try:
        code = main()
    except SystemExit as leaving:
        if not isinstance(leaving.code, int):
            raise
        code = leaving.code
    end(code)


if __name__ == "__main__":
    program()
