"""Sums and norms of many rows that a group's ranks deal among themselves. Knows no kernel and no address.

Where an all_reduce ends half a layer, every rank would add the same sums to the residual stream and norm the same rows.
With many rows each rank does so for a share of them and hands out what it normed, as the residual stream of sequence
parallelism does (Korthikanti et al., arXiv 2205.05198). Whether rows are many is seen in each step
(`weft/native/step/dealt_rows.h`): a program is the same for all numbers of rows. A row's bits do not depend on who
computed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from weft.comm.base import Group
from weft.native.records import SETTLES, Op
from weft.program.values import Buffer, Instruction, View

NUMBERS = 8 << 10
"""Of a step's rows, from which on less work outweighs that ranks meet twice and not once: where ranks come together two
rows are enough (`benchmarks/dealt_rows.py`), but each meeting waits for whoever is late."""

EXCHANGES = (Op.ALL_REDUCE, Op.ALL_GATHER, Op.REDUCE_SCATTER, Op.ALL_TO_ALL, Op.ROUTED)
LOGITS = 2
"""Instructions at a program's end that a step may leave out: what gives logits, and what gathers them."""


def dealt_from(columns: int) -> int:
    """How many rows of so many columns are many."""
    return -(-NUMBERS // columns)


def deal_rows(code: Sequence[Instruction], result: View) -> Iterator[Instruction]:
    """`code` with an ALL_GATHER of normed rows behind each ALL_REDUCE whose sums only a NORM reads, all three marked.

    Ranks then hold their own rows of the residual stream alone, so that it is gathered as well where something other
    than such a NORM reads it next; `result`: what the program gives.
    """
    dealt = {index + 1: group for index in range(len(code) - 1) if (group := _group_of_pair(code, index)) is not None}
    for index, instruction in enumerate(code):
        instruction.dealt = dealt.get(index, dealt.get(index + 1))
        yield instruction
        if index in dealt:
            reduce, stream = code[index - 1], instruction.inputs[0]
            yield _gather(reduce, instruction.out)
            following = _next_touch(code, index + 1, stream)
            if following is None:
                read = result.buffer.home is stream.buffer.home
            else:
                read = dealt.get(following) != dealt[index] or code[following].inputs[0] != stream
            if read:
                yield _gather(reduce, stream)


def _group_of_pair(code: Sequence[Instruction], index: int) -> Group | None:
    """Of an ALL_REDUCE at `index` and a NORM behind it that alone reads the sums and adds them to a whole stream."""
    reduce, norm = code[index], code[index + 1]
    if reduce.op is not Op.ALL_REDUCE or norm.op is not Op.NORM or len(norm.inputs) != 2 or reduce.plan is None:
        return None
    stream, sums = norm.inputs
    whole = all(view.fold == 1 and view.columns == view.buffer.columns for view in (stream, sums, norm.out))
    unread = _next_touch(code, index + 2, sums) is None
    together = sums == reduce.out and stream.buffer.rows == sums.buffer.rows == norm.out.buffer.rows
    return reduce.plan.group if whole and unread and together else None


def _next_touch(code: Sequence[Instruction], start: int, view: View) -> int | None:
    home = view.buffer.home
    touching = (i for i in range(start, len(code)) if home in {each.buffer.home for each in code[i].touched})
    return next(touching, None)


def next_meeting(code: Sequence[Instruction], index: int) -> int | None:
    """The next instruction behind `index` in which the ranks that deal its rows come together, however many rows there
    are. None: there is none that every step runs (those for logits may be left out)."""
    group = {*(code[index].dealt or ())}
    for later in range(index + 1, len(code) - LOGITS):
        instruction = code[later]
        meets = instruction.op in EXCHANGES and not (instruction.op is Op.ALL_GATHER and instruction.dealt)
        if meets and {*(instruction.exchange or ())} >= group:
            return later
    return None


def settle(code: Sequence[Instruction]) -> None:
    """Marks gathers behind which ranks may not go on before all have read: what was gathered is changed before they
    meet again, or they do not in this step."""
    for index, instruction in enumerate(code):
        if instruction.op is Op.ALL_GATHER and instruction.dealt is not None:
            home, meeting = instruction.out.buffer.home, next_meeting(code, index)
            changed = meeting is None or any(home in written(each) for each in code[index + 1 : meeting + 1])
            instruction.numbers[SETTLES] = int(changed)


def read_until(code: Sequence[Instruction]) -> Iterator[tuple[Buffer, int]]:
    """Buffers that other ranks read where they lie, each with the instruction up to which they may do so. Of code that
    is settled."""
    for index, instruction in enumerate(code):
        if instruction.op is Op.ALL_GATHER and instruction.dealt is not None and not instruction.numbers[SETTLES]:
            meeting = next_meeting(code, index)
            assert meeting is not None
            yield instruction.out.buffer.home, meeting


def written(instruction: Instruction) -> set[Buffer]:
    """What an instruction writes to: its result, a stream that it adds sums to as it norms, rows that it keeps in
    place."""
    in_place = instruction.op is Op.SELECT or (instruction.op is Op.NORM and len(instruction.inputs) == 2)
    views = (instruction.out, *(instruction.inputs if in_place else ()))
    return {view.buffer.home for view in views}


def _gather(reduce: Instruction, rows: View) -> Instruction:
    return Instruction(Op.ALL_GATHER, reduce.module, rows, (rows,), plan=reduce.plan, dealt=reduce.dealt)
