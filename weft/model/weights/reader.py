"""SliceReader: runs of rows and columns of a checkpoint's tensors, read and counted.

Reads go through pread, not a mapping: a file that is cut short while it is open is then an error with a name, not a
signal that kills the process.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType, TracebackType

import torch
from torch import Tensor

from weft.model.checkpoint.files import FileState
from weft.model.checkpoint.formats import LOADABLE, TensorFormat
from weft.model.checkpoint.tensors import TensorInfo
from weft.model.weights.dequantize import decode

Interval = tuple[int, int]
PIECE = 1 << 19
"""Elements decoded at a time: few enough that a piece stays in a core's cache."""


class ReadError(Exception):
    """A tensor's bytes could not be read; the message names the file and the tensor."""


class SliceReader:
    """Reads slices of tensors; `bytes_read` counts the tensor bytes copied, in the files' formats.

    A slice of a quantized tensor is widened to whole blocks, and the rows of a permuted one to whole heads.
    """

    def __init__(
        self,
        library: ctypes.CDLL | None = None,
        dtype: torch.dtype = torch.float32,
        states: Mapping[str, FileState] = MappingProxyType({}),
    ) -> None:
        """`library`, and `dtype` of what is quantized: see `decode`. `states`: what files were when they were checked;
        one that has changed is a ReadError."""
        self.bytes_read = 0
        self._states = states
        self._library, self._dtype = library, dtype
        self._files: dict[str, int] = {}
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def __enter__(self) -> SliceReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def pieces(
        self, info: TensorInfo, dim: int | None, interval: Interval | None, *, decoded: bool = True
    ) -> Iterator[tuple[int, Tensor]]:
        """The slice `interval` of `dim` (None: all), in pieces of rows: (first row within the slice, values).

        values: [rows, columns] ([rows] for a vector) in the format's own dtype, the reader's where it is quantized,
        valid until the next piece. Not `decoded`: uint8 [rows, bytes of whole blocks] instead.
        """
        if info.by_head:
            yield from self._by_head(info, interval or (0, info.shape[0]))
            return
        rows, columns = _extent(info)
        row_run, column_run = (0, rows), (0, columns)
        if interval is not None and dim is not None:
            row_run, column_run = (interval, column_run) if dim == 0 else (row_run, interval)
        unit = rows // info.heads if info.heads else 1
        assert row_run[0] % unit == row_run[1] % unit == 0, f"{info.name}: rows {row_run} are not whole heads of {unit}"
        if column_run[0] == column_run[1]:
            return
        step = max(1, PIECE // (unit * columns)) * unit
        for lo in range(*row_run, step):
            values = self._values(info, (lo, min(lo + step, row_run[1])), column_run, decoded)
            values = _unpermuted(values, unit, info.rotated or unit) if info.heads else values
            yield lo - row_run[0], values if len(info.shape) > 1 else values.view(-1)

    def _by_head(self, info: TensorInfo, rows: Interval) -> Iterator[tuple[int, Tensor]]:
        """Whole heads in `rows` of what two matrices hold."""
        first, second = info.by_head
        heads = (info.shape[0] - second.shape[0]) // first.shape[1]
        unit, (depth, width) = info.shape[0] // heads, (first.shape[0] // heads, second.shape[0] // heads)
        assert rows[0] % unit == rows[1] % unit == 0, f"{info.name}: rows {rows} are not whole heads of {unit}"
        for head in range(rows[0] // unit, rows[1] // unit):
            turned = self._values(first, (head * depth, (head + 1) * depth), (0, first.shape[1]), True).T.contiguous()
            below = self._values(second, (head * width, (head + 1) * width), (0, second.shape[1]), True)
            yield head * unit - rows[0], torch.cat((turned, below))

    def _values(self, info: TensorInfo, rows: Interval, columns: Interval, decoded: bool) -> Tensor:
        fmt = LOADABLE[info.dtype]
        lo, hi = fmt.widen(*columns)
        raw = self._raw(info, fmt, rows, (lo, hi))
        if not decoded:
            return raw
        return decode(raw, fmt.name, hi - lo, self._library, self._dtype)[:, columns[0] - lo : columns[1] - lo]

    def _raw(self, info: TensorInfo, fmt: TensorFormat, rows: Interval, columns: Interval) -> Tensor:
        """Bytes of a run of rows and of whole-block columns: uint8 [rows, bytes of a row's run]."""
        count, width = rows[1] - rows[0], fmt.row_bytes(columns[1] - columns[0])
        stride = fmt.row_bytes(_extent(info)[1])
        start = info.offset + rows[0] * stride + fmt.row_bytes(columns[0])
        if self._buffer.numel() < count * width:
            self._buffer = torch.empty(count * width, dtype=torch.uint8)
        raw = self._buffer[: count * width]
        memory = memoryview(raw.numpy().data)
        fd = self._open(info)
        if width == stride:
            _read(fd, memory, start, info)
        else:
            for row in range(count):
                _read(fd, memory[row * width : (row + 1) * width], start + row * stride, info)
        self.bytes_read += count * width
        return raw.view(count, width)

    def _open(self, info: TensorInfo) -> int:
        if info.file not in self._files:
            try:
                fd = os.open(info.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as error:
                raise ReadError(f"{info.file}: {info.source}: {error.strerror}") from error
            state = self._states.get(info.file)
            if state is not None and (changed := state.change(fd)):
                os.close(fd)
                raise ReadError(f"{info.file}: changed: {changed}; start again when it is as it should be")
            self._files[info.file] = fd
        return self._files[info.file]


def _extent(info: TensorInfo) -> tuple[int, int]:
    """Rows and columns of a tensor; a vector's elements are rows."""
    return (info.shape[0], info.shape[1]) if len(info.shape) > 1 else (info.shape[0], 1)


def _read(fd: int, memory: memoryview, offset: int, info: TensorInfo) -> None:
    """Fills `memory` from `offset`."""
    done = 0
    while done < len(memory):
        try:
            got = os.preadv(fd, [memory[done:]], offset + done)
        except OSError as error:
            raise ReadError(f"{info.file}: {info.source}: {error.strerror}") from error
        if got == 0:
            at, missing = offset + done, len(memory) - done
            raise ReadError(f"{info.file}: {info.source}: truncated: wanted {missing} more bytes at {at}, got none")
        done += got


def _unpermuted(values: Tensor, head: int, rotated: int) -> Tensor:
    """Whole heads of `head` rows, their `rotated` first ones from pairs side by side (row 2i+j) to pairs half of them
    apart (row j*rotated/2+i), [rows, columns]."""
    heads = values.view(-1, head, values.shape[1])
    pairs = heads[:, :rotated].unflatten(1, (rotated // 2, 2)).transpose(1, 2).flatten(1, 2)
    return torch.cat((pairs, heads[:, rotated:]), 1).view(values.shape)
