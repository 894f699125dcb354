"""TensorInfo: where one tensor's bytes are in a file. The record crosses process borders."""

from __future__ import annotations

import msgspec

from weft.base.errors import CheckpointError


class TensorInfo(msgspec.Struct, frozen=True):
    """One tensor of a checkpoint under its HF name.

    shape: in HF order (rows first). dtype: a name in `formats` (or one that no loader takes). file: path.
    offset, nbytes: absolute, in bytes. source: its name in the file. heads: when not 0, the rows lie as GGUF's llama
    architecture writes q and k: inside each of this many heads, row 2i+j of the file is row j*(head_dim/2)+i. rotated:
    when not 0, so lie only that many rows of each head, the first ones. by_head: when not empty, two matrices that the
    rows of each head are put together of: the first one's of that head, transposed, then the second's.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: str
    offset: int
    nbytes: int
    source: str
    heads: int = 0
    rotated: int = 0
    by_head: tuple[TensorInfo, ...] = ()

    @property
    def end(self) -> int:
        """First byte after the tensor."""
        return self.offset + self.nbytes


def overlaps(tensors: list[TensorInfo]) -> list[str]:
    """A line for each pair of neighbours, within one file, whose bytes overlap."""
    ordered = sorted((t for t in tensors if t.nbytes), key=lambda t: (t.file, t.offset, t.end))
    return [
        f"{after.file}: {after.source} begins at byte {after.offset}, inside {before.source} (up to {before.end})"
        for before, after in zip(ordered, ordered[1:], strict=False)
        if before.file == after.file and after.offset < before.end
    ]


def raise_all(path: str, problems: list[str]) -> None:
    """CheckpointError with all `problems` found under `path`; nothing when there are none."""
    problems = list(dict.fromkeys(problems))
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise CheckpointError(f"checkpoint {path}: {count}", problems)
