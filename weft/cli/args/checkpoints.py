"""MODEL as a checkpoint that can be loaded: found or fetched, headers read, files compared with known hashes."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from weft.model.checkpoint import Checkpoint, open_checkpoint
from weft.model.checkpoint.hub.paths import model_path
from weft.model.checkpoint.integrity.check import check_hashes


def opened(args: argparse.Namespace, word: str | None, say: Callable[[str], None]) -> Checkpoint:
    """The checkpoint of the MODEL `word`, under --revision and --verify-checkpoint. CheckpointError: it cannot be
    served."""
    checkpoint = open_checkpoint(model_path(word, say, revision=args.revision))
    check_hashes(checkpoint, args.verify_checkpoint, say)
    checkpoint.say_notes(say)
    return checkpoint
