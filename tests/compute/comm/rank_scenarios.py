"""What the ranks of `rank_host.py` do: each function runs on every rank, in a process of its own."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from tests.compute.comm import comm_cases

Args = dict[str, Any]


def conformance(comm: Any, args: Args) -> list[str]:
    """All cases in one life of the processes; what went wrong."""
    cases = comm_cases.systematic(comm.world)[args["first"] :: args["every"]]
    cases += comm_cases.drawn(comm.world, args["drawn"], args["seed"], args["most_rows"])
    wrong = [comm_cases.check(comm, case) for case in cases]
    return [f"{len(cases)} cases", *(text for text in wrong if text)]


def special_values(comm: Any, args: Args) -> list[str]:
    """Infinities, NaN, signed zeros, subnormals and overflow add as torch adds them."""
    wrong = []
    group = tuple(range(comm.world))
    values = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 6e-8, -6e-8, 1e-40, 65504.0, 65520.0, 3e38, 1.0]
    for dtype in comm_cases.DTYPES[:4]:
        rolled = [torch.tensor(values, dtype=torch.float64).roll(i).to(dtype) for i in range(comm.world)]
        got = comm.all_reduce(rolled[comm.rank].clone(), group)
        wanted = comm_cases.plain_sum(rolled)
        if (
            not torch.equal(got.nan_to_num(nan=7.0), wanted.nan_to_num(nan=7.0))
            or ((got.signbit() != wanted.signbit()) & ~got.isnan()).any()
        ):
            wrong.append(f"{dtype}: {got.tolist()} instead of {wanted.tolist()}")
    return wrong


def every_half(comm: Any, args: Args) -> list[str]:
    """Each of the 65,536 halves plus a small number: widening and rounding agree with torch's everywhere."""
    wrong = []
    for dtype in (torch.bfloat16, torch.float16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        other = every.roll(12345)
        got = comm.all_reduce((every if comm.rank == 0 else other).clone(), (0, 1))
        wanted = comm_cases.plain_sum([every, other])
        differ = (got.view(torch.int16) != wanted.view(torch.int16)) & ~(got.isnan() & wanted.isnan())
        if differ.any():
            wrong.append(f"{dtype}: {int(differ.sum())} sums differ")
    return wrong


def sizes(comm: Any, args: Args) -> list[str]:
    """Messages of about so many bytes, in fp32 and bf16, whose sums depend on the order."""
    wrong, group, seed = [], tuple(range(comm.world)), 0
    for kind in args["kinds"]:
        for size, around, dtype in itertools.product(args["bytes"], args["around"], comm_cases.DTYPES[0:3:2]):
            rows, seed = (size + around) // dtype.itemsize, seed + 1
            case = comm_cases.Case(kind, group, dtype, ((rows,) * comm.world,) * comm.world, 1, seed)
            wrong.append(comm_cases.check(comm, case))
    return [text for text in wrong if text]


def large(comm: Any, args: Args) -> list[str]:
    """Messages of so many bytes to and from every member, which torch checks."""
    group, count, wrong = tuple(range(comm.world)), args["bytes"] // 4, []
    xs = [torch.arange(count, dtype=torch.float32) * (0.1 + rank) for rank in group]
    own, outs = xs[comm.rank], [torch.empty(count) for _ in group]
    total = comm_cases.plain_sum(xs)
    if not torch.equal(comm.all_reduce(own.clone(), group), total):
        wrong.append("all_reduce")
    comm.all_gather(own, outs, group)
    wrong += ["all_gather"] if any(not torch.equal(*pair) for pair in zip(outs, xs, strict=True)) else []
    comm.reduce_scatter([own] * comm.world, outs[0], group)
    wrong += ["reduce_scatter"] if not torch.equal(outs[0], total) else []
    comm.all_to_all([own + rank for rank in group], outs, group)
    wrong += ["all_to_all"] if any(not torch.equal(a, b + comm.rank) for a, b in zip(outs, xs, strict=True)) else []
    return wrong


def late(comm: Any, args: Args) -> str:
    """Rank 1 comes so much later than the others, to a message that no socket holds."""
    x, group = torch.ones(args["bytes"] // 4), tuple(range(comm.world))
    if comm.rank == 1:
        time.sleep(args["seconds"])
    comm.all_reduce(x, group)
    return "came"


def die(comm: Any, args: Args) -> Any:
    """Rank args['victim'] is killed, or stopped, in the middle of collectives; others go on until they fail."""
    group, kind = tuple(range(comm.world)), args["kind"]
    comm.barrier(group)  # every rank has its connections
    if comm.rank == args["victim"]:
        threading.Thread(target=_end_soon, args=(args["signal"],), daemon=True).start()
    x = torch.ones(args["count"])
    outs = [torch.empty_like(x) for _ in group]
    while True:
        if kind == "all_reduce":
            comm.all_reduce(x, group)
        elif kind == "all_gather":
            comm.all_gather(x, outs, group)
        elif kind == "reduce_scatter":
            comm.reduce_scatter(outs, x, group)
        elif kind == "all_to_all":
            comm.all_to_all([x for _ in group], outs, group)
        else:
            comm.barrier(group)


def _end_soon(number: int) -> None:
    time.sleep(0.05)
    os.kill(os.getpid(), number)


def absent_rank(comm: Any, args: Args) -> str:
    """The last rank does not come to the second collective, and lives on until it is ended."""
    group = tuple(range(comm.world))
    comm.barrier(group)
    if comm.rank == comm.world - 1:
        time.sleep(600)
    comm.all_reduce(torch.ones(5), group)
    return "returned"


def fail_alone(comm: Any, args: Args) -> None:
    """Rank 0 dies of an error of its own while the others wait for it."""
    group = tuple(range(comm.world))
    comm.barrier(group)
    if comm.rank == 0:
        raise ArithmeticError("rank 0's own error")
    comm.all_reduce(torch.ones(5), group)


def leave(comm: Any, args: Args) -> str:
    """Rank 0 closes its end in order while rank 1 still calls."""
    comm.barrier((0, 1))
    if comm.rank == 0:
        comm.close()
        time.sleep(args["sleep"])
        return "closed"
    comm.barrier((0, 1))
    return "returned"


def bystander_leaves(comm: Any, args: Args) -> str:
    """Rank 2 has closed; a collective without it still works, however long its members wait."""
    comm.barrier((0, 1, 2))
    if comm.rank == 2:
        comm.close()
        return "closed"
    if comm.rank == 0:
        time.sleep(0.2)
    return f"{comm.all_reduce(torch.ones(1), (0, 1)).item()}"


def disagree(comm: Any, args: Args) -> str:
    """Rank 1 differs from the others in the way args['how'] names; other ranks meet it at the barrier."""
    group = tuple(range(comm.world))
    comm.barrier(group)
    _DISAGREEMENTS[args["how"]](comm, group, comm.rank == 1)
    comm.barrier(group)
    return "returned"


def _kinds(comm: Any, group: tuple[int, ...], odd: bool) -> None:
    if odd:
        comm.all_gather(torch.ones(4), list(torch.empty(4 * len(group)).split(4)), group)
    else:
        comm.all_reduce(torch.ones(4), group)


def _dtypes(comm: Any, group: tuple[int, ...], odd: bool) -> None:
    comm.all_reduce(torch.ones(4, dtype=torch.int32 if odd else torch.float32), group)


def _sizes(comm: Any, group: tuple[int, ...], odd: bool) -> None:
    comm.all_reduce(torch.ones(5 if odd else 4), group)


def _splits(comm: Any, group: tuple[int, ...], odd: bool) -> None:
    sizes = [3 if comm.rank == i or not odd else 2 for i in group]
    comm.reduce_scatter([torch.ones(size) for size in sizes], torch.empty(3), group)


def _gather_sizes(comm: Any, group: tuple[int, ...], odd: bool) -> None:
    outs = [torch.empty(4 if odd and i == 0 else 3) for i in range(len(group))]
    comm.all_gather(torch.ones(3), outs, group)


def _pairs(comm: Any, group: tuple[int, ...], odd: bool) -> None:
    xs = [torch.ones(4 if odd and i == 0 else 3) for i in group]
    comm.all_to_all(xs, [torch.empty(3) for _ in group], group)


def _shapes(comm: Any, group: tuple[int, ...], odd: bool) -> None:
    comm.all_reduce(torch.ones(2, 6) if odd else torch.ones(3, 4), group)


_DISAGREEMENTS: dict[str, Callable[[Any, tuple[int, ...], bool], None]] = {
    "kinds": _kinds,
    "dtypes": _dtypes,
    "sizes": _sizes,
    "splits": _splits,
    "gather sizes": _gather_sizes,
    "pairs": _pairs,
    "shapes": _shapes,
}


def disagree_elsewhere(comm: Any, args: Args) -> str:
    """Ranks 0 and 1 disagree in their pair while rank 2 waits for both: rank 2 must not wait for its time limit."""
    if comm.rank == 2:
        comm.barrier((0, 1, 2))
    comm.all_reduce(torch.ones(4 + comm.rank), (0, 1))
    return "returned"


def use_after_failure(comm: Any, args: Args) -> str:
    """A comm that failed says so at once, whatever is called on it."""
    try:
        comm.all_reduce(torch.ones(4 + comm.rank), (0, 1))
    except Exception as error:
        first = str(error)
    try:
        comm.barrier((0, 1))
    except Exception as error:
        return f"{type(error).__name__}: {error}" if first in str(error) else f"another story: {error}"
    return "returned"


SCENARIOS: dict[str, Callable[[Any, Args], Any]] = {
    function.__name__: function
    for function in (
        conformance,
        special_values,
        every_half,
        die,
        sizes,
        large,
        late,
        absent_rank,
        fail_alone,
        leave,
        bystander_leaves,
        disagree,
        disagree_elsewhere,
        use_after_failure,
    )
}
