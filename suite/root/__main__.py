"""``python3 -m v3bench`` is the command ``v3bench``."""

import sys

from v3bench.suite.cli import main

sys.exit(main())
