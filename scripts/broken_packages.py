"""Prints the installed packages of which files are missing or cut short, one per line; exit 1 if there are any.

An installation that was interrupted leaves such packages, and pip takes them for installed.
"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path


def is_broken(dist: Distribution) -> bool:
    """True if the list of files is missing, or a file is missing or has another size than recorded."""
    if dist.files is None:
        return True
    for file in dist.files:
        if "__pycache__" in file.parts:
            continue
        path = Path(str(file.locate()))
        if not path.exists() or (file.size is not None and path.stat().st_size != file.size):
            return True
    return False


def main() -> int:
    """Checks every distribution of the running interpreter."""
    # A package without a name has no METADATA yet: pip does not take that one for installed.
    broken = sorted({dist.name for dist in distributions() if dist.metadata["Name"] and is_broken(dist)})
    print("\n".join(broken), end="\n" if broken else "")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
