"""What a declaration is made of. `python -m weft.compute.ops.generate` writes numbers, indices and kernels in C++."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])


class OpCode(int):
    """An operation's number in a record. `says`: what it does, for a person. `kernel`: the header below
    `weft/compute/native` and its function, `kernels/common/pointwise.h:norm`; empty for an exchange between ranks.
    `vectors`: indices of the pointers to vectors that it reads in the type in which it computes, fp32 or fp64; with
    `on_grid` that is fp64 for the exact model."""

    name: str

    def __new__(
        cls,
        number: int,
        says: str,
        kernel: str = "",
        vectors: tuple[int, ...] = (),
        *,
        on_grid: bool = False,
    ) -> OpCode:
        return super().__new__(cls, number)

    def __init__(
        self,
        number: int,
        says: str,
        kernel: str = "",
        vectors: tuple[int, ...] = (),
        *,
        on_grid: bool = False,
    ) -> None:
        self.says, self.kernel, self.vectors = says, kernel, vectors
        self.on_grid = on_grid

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


def codes(*owners: type) -> Mapping[int, OpCode]:
    """The codes that classes declare, by number."""
    found = [code for owner in owners for code in vars(owner).values() if isinstance(code, OpCode)]
    return {int(code): code for code in sorted(found)}


class N(int):
    """An index into `InstructionRecord.n`. Operations use the same ones for different things."""


class P(int):
    """An index into `InstructionRecord.p`."""


class F(int):
    """An index into `InstructionRecord.f`."""


def numbers(end: int, begin: int = 0) -> Iterator[N]:
    """The indices from `begin` to before `end`."""
    return map(N, range(begin, end))


def pointers(end: int, begin: int = 0) -> Iterator[P]:
    """The same of pointers."""
    return map(P, range(begin, end))


class NoCallError(Exception):
    """The library has no call for these operands; `str()` says why, for a person."""


def operation(*, snapped: bool = False) -> Callable[[Method], Method]:
    """Marks a method of `Ops` whose body is the library's call: `LibraryOps` has the body as its method, and every
    other implementation must define its own. `snapped`: the exact model's result is the torch twin's of fp64, put on
    its grid."""

    def mark(method: Method) -> Method:
        vars(method).update(__isabstractmethod__=True, snapped=snapped)
        return method

    return mark


def declared(ops: type) -> Mapping[str, Callable[..., Any]]:
    """The bodies of `ops` that `operation` has marked, by name."""
    found = {name: getattr(ops, name) for name in dir(ops)}
    return {name: method for name, method in found.items() if hasattr(method, "snapped")}
