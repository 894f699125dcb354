"""Products x @ weight.T whose rows do not depend on how many rows there are, nor on where a row stands.

A library may choose another order of summation for another number of rows. `forms` lists ways to call it from the
fastest to the safest; `check_batch_invariance` finds at start, on the model's own weights, the first whose bits hold.
The number of torch operations of a call is the same for 1 to `TILE` rows in every form.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.compute.native import isa

TILE = 64
_COUNTS = (2, 3, 5, 7, 8, 11, 16, 31, 33, 64)
_ROWS = 100
_MANY = 2048
_COUNTS_ON_DEVICE = (_ROWS, 128, 192, 256, 384, 512, 768, 1024, 1536)
"""Rows that a device is also tried with, beside `_MANY`: its libraries take other kernels for them."""


class Form(ABC):
    """One way to compute a product; `name` is shown at start-up."""

    name: str

    @abstractmethod
    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x @ weight.T + bias."""


class Direct(Form):
    """The library as it is."""

    name = "direct"

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class Padded(Form):
    """Rows filled up with zeros to a multiple: libraries treat the rows beyond their last full register block apart."""

    def __init__(self, multiple: int) -> None:
        self.multiple = multiple
        self.name = f"padded to {multiple} rows"

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(pad_rows(x, self.multiple), weight, bias).narrow(0, 0, x.shape[0])


class Tiled(Form):
    """One product of the same shape after the other."""

    def __init__(self, rows: int = TILE) -> None:
        self.rows = rows
        self.name = f"tiles of {rows} rows"

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        tiles: tuple[Tensor, ...] = torch.split(pad_rows(x, self.rows), self.rows)
        return torch.cat([F.linear(tile, weight, bias) for tile in tiles]).narrow(0, 0, x.shape[0])


class PerShape(Form):
    """A form for each shape of a matrix, and the first one for those that were not tried."""

    def __init__(self, usual: Form, others: Mapping[tuple[int, int], Form]) -> None:
        self._usual, self._others = usual, dict(others)
        said = [f"{form.name} at {n}x{k}" for (n, k), form in self._others.items()]
        self.name = ", ".join([usual.name, *said])

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._others.get((weight.shape[0], weight.shape[1]), self._usual)(x, weight, bias)


def pad_rows(x: Tensor, multiple: int) -> Tensor:
    """A copy of x [N, K] with zero rows up to the next multiple. Always a copy, and `narrow` where a slice of
    everything would be left out: the same operations for every N."""
    rows, columns = x.shape
    padded = x.new_zeros(-(-rows // multiple) * multiple, columns)
    padded.narrow(0, 0, rows).copy_(x)
    return padded


def forms(dtype: torch.dtype, device: torch.device) -> tuple[Form, ...]:
    """Measured with oneDNN and MKL. On AMD's processors fp32 and fp64 rows differ only beyond a multiple of 4, bf16
    rows only where there is a single one, and then seldom; on Intel's, rows of every kind differ unless all products
    have the same number of them."""
    if device.type == "cpu" and isa.cpu_vendor() == "GenuineIntel":
        return (Tiled(),)
    if device.type == "cpu" and dtype in (torch.bfloat16, torch.float32, torch.float64):
        return Padded(4), Padded(16), Tiled()
    return Direct(), Padded(16), Tiled()


@dataclass(frozen=True, slots=True)
class Invariance:
    """`form` is the one in use from now on; `holds`: no shape that was looked at broke it. `broken`: (form, shape
    [out, in]) of each that did; `unchecked`: shapes that the time did not suffice for."""

    form: str
    holds: bool
    checked: int
    broken: tuple[tuple[str, tuple[int, int]], ...]
    unchecked: tuple[tuple[int, int], ...]
    seconds: float

    def __str__(self) -> str:
        said = f"linear {self.form}"
        if self.checked:
            said += f": {self.checked} shapes in {self.seconds:.2f} s"
        if self.broken:
            said += "; rows depended on their number with " + ", ".join(
                f"{form} at {n}x{k}" for form, (n, k) in self.broken
            )
        if not self.holds:
            said += "; NO form held: results may depend on the batch"
        if self.unchecked:
            said += f"; not checked for lack of time: {', '.join(f'{n}x{k}' for n, k in self.unchecked)}"
        return said


def choose_form(
    candidates: tuple[Form, ...], weights: Iterable[Tensor], seconds: float, clock: Callable[[], float] = time.monotonic
) -> tuple[Form, Invariance]:
    """The first candidate whose rows hold for one weight of each shape, small shapes first, within about `seconds`."""
    started = clock()
    distinct = {tuple(w.shape): w for w in weights if w.dim() == 2 and w.numel()}
    waiting = sorted(distinct.values(), key=Tensor.numel)
    broken: list[tuple[str, tuple[int, int]]] = []
    index, done, elements = 0, 0, 0
    while done < len(waiting) and index < len(candidates):
        weight, spent = waiting[done], clock() - started
        if elements and spent + spent / elements * weight.numel() > seconds:
            break
        elements += weight.numel()
        if _holds(candidates[index], weight):
            done += 1
        else:
            broken.append((candidates[index].name, (weight.shape[0], weight.shape[1])))
            index, done = index + 1, 0
    form = candidates[min(index, len(candidates) - 1)]
    unchecked = tuple((w.shape[0], w.shape[1]) for w in waiting[done:]) if index < len(candidates) else ()
    report = Invariance(form.name, index < len(candidates), done, tuple(broken), unchecked, clock() - started)
    return form, report


def choose_for_each(
    candidates: tuple[Form, ...], weights: Iterable[Tensor], seconds: float, clock: Callable[[], float] = time.monotonic
) -> tuple[Form, Invariance]:
    """`choose_form` for each shape alone, small ones first: one that needs a slow form slows no other."""
    started = clock()
    distinct = {(w.shape[0], w.shape[1]): w for w in weights if w.dim() == 2 and w.numel()}
    reports: list[Invariance] = []
    others: dict[tuple[int, int], Form] = {}
    late: list[tuple[int, int]] = []
    for shape, weight in sorted(distinct.items(), key=lambda each: each[1].numel()):
        if reports and clock() - started > seconds:
            late.append(shape)
            continue
        form, report = choose_form(candidates, [weight], seconds, clock)
        reports.append(report)
        if form is not candidates[0]:
            others[shape] = form
    chosen = PerShape(candidates[0], others)
    checked = sum(report.checked for report in reports)
    broken = tuple(each for report in reports for each in report.broken)
    unchecked = (*(each for report in reports for each in report.unchecked), *late)
    holds = all(report.holds for report in reports)
    return chosen, Invariance(chosen.name, holds, checked, broken, unchecked, clock() - started)


def _holds_on_device(form: Form, x: Tensor, weight: Tensor, whole: Tensor) -> bool:
    """Of the rows of a prompt, and where there is a bias, which its libraries may add in another kernel."""
    if not all(torch.equal(form(x[:count], weight, None), whole[:count]) for count in _COUNTS_ON_DEVICE):
        return False
    bias = x[0, :1].expand(weight.shape[0]).contiguous()
    biased = form(x, weight, bias)
    return all(torch.equal(form(x[:count], weight, bias), biased[:count]) for count in (1, 7, 64, *_COUNTS_ON_DEVICE))


def _holds(form: Form, weight: Tensor) -> bool:
    """Whether rows keep their bits in batches of several sizes, at several places."""
    generator = torch.Generator().manual_seed(0)
    rows = _ROWS if weight.device.type == "cpu" else _MANY
    x = torch.randn(rows, weight.shape[1], generator=generator).to(dtype=weight.dtype, device=weight.device)
    whole = form(x, weight, None)
    if rows > _ROWS and not _holds_on_device(form, x, weight, whole):
        return False
    alone = [(1, begin) for begin in range(0, _ROWS, 8)]  # what a library does for a single row differs seldomest
    for count, begin in (*alone, *((count, 7 * count % (_ROWS - count)) for count in _COUNTS)):
        if not torch.equal(form(x[begin : begin + count], weight, None), whole[begin : begin + count]):
            return False
    return True
