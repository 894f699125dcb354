"""weft with a tiny model in the place of the embedded one: `python -m tests.support.tiny_embedded MODEL WORDS...`.

Words that begin with a number are those of `weft.cli.hosted`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from weft.cli.hosted import host
from weft.cli.main import main
from weft.model.checkpoint.hub import paths


def run(words: list[str]) -> int:
    model, *rest = words
    setattr(paths, "embedded_model", lambda say: Path(model))  # noqa: B010
    return host(rest) if rest[0].isdigit() else main(rest)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
