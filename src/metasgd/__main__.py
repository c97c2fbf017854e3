import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback out of the seconds that importing takes

from metasgd.cli import main  # noqa: E402

sys.exit(main())
