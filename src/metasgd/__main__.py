import sys

from metasgd.cli import main

sys.exit(main())
