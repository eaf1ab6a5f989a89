"""`python -m moir_edge`: the same as the command `moir-edge`."""

from __future__ import annotations

import sys

from moir_edge.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
