"""`python -m weft.agent WORDS`: as `weft serve WORDS`, for launchers that start a module of Python on each host.

On host 0 (--node-rank 0) it is the server, on every other host the agent.
"""

from __future__ import annotations

import sys
from importlib import import_module

if __name__ == "__main__":
    sys.exit(import_module("weft.cli.main").main(["serve", *sys.argv[1:]]))
