"""LoadRecorder: writes the loads of a server's experts to a file that `weft experts` reads.

The file has every layer of the model, with zeros for layers without routed experts, as SGLang records it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weft.base.errors import ConfigError
from weft.parallel.experts.statistics.loads import IntArray

SCHEMA = "weft.experts.stats/1"


class LoadRecorder:
    """Adds up loads and writes them to `path`, which is replaced as a whole each time."""

    def __init__(self, path: Path, model: str, num_layers: int, layers: Sequence[int], experts: int) -> None:
        """`layers`: numbers of the layers with routed experts. ConfigError: the file cannot be written."""
        self.path, self.model, self.layers = path, model, list(layers)
        self.steps = 0
        self._counts: IntArray = np.zeros((num_layers, experts), dtype=np.int64)
        try:
            self._write()
        except OSError as error:
            raise ConfigError(
                f"expert_stats {path}: {error.strerror or error}; give a file in a directory that can be written",
                field="expert_stats",
                value=str(path),
            ) from None

    def add(self, counts: IntArray, steps: int) -> None:
        """Rows of each expert, [layers with experts, experts], in `steps` steps. OSError: it cannot be written now."""
        self._counts[self.layers] += counts
        self.steps += steps
        self._write()

    def _write(self) -> None:
        document = {
            "schema": SCHEMA,
            "model": self.model,
            "steps": self.steps,
            "logical_count": self._counts.tolist(),
        }
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            fresh.write_text(json.dumps(document) + "\n")
            fresh.replace(self.path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
