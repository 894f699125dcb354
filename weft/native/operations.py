"""The operations of a step program, declared once: numbers, operands by their index in a record, kernels.

`python -m weft.native.generate` writes them, and the records, to `runtime/records.h` for C++.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum


class Op(IntEnum):
    """What an instruction does; `OPS` says it in a line each."""

    EMBED = 1
    NORM = 2
    LINEAR = 3
    QKV = 4
    ATTENTION = 5
    SILU_MUL = 6
    ADD = 7
    ADD_BIAS = 8
    SELECT = 9
    COPY = 10
    ROUTE = 11
    PLACE = 12
    GATHER = 13
    GROUPED = 14
    COMBINE = 15
    DEAL = 16
    LATENT = 17
    PER_HEAD = 18
    ROUND = 19
    ALL_REDUCE = 20
    ALL_GATHER = 21
    REDUCE_SCATTER = 22
    ALL_TO_ALL = 23
    ROUTED = 24


EXCHANGES = (Op.ALL_REDUCE, Op.ALL_GATHER, Op.REDUCE_SCATTER, Op.ALL_TO_ALL, Op.ROUTED)
"""Those in which other ranks take part."""

LO, HELD = 0, 1
"""Indices into `InstructionRecord.n` of EMBED."""
EPILOGUE = 2
"""Index into `InstructionRecord.n` of LINEAR."""
Q_HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE, WINDOW, ROPE_DIM, PACKED_CACHE = range(7)
"""Indices into `InstructionRecord.n` of QKV and ATTENTION."""
WEIGHT, BIAS = 0, 1
"""Indices into `InstructionRecord.p` of LINEAR, EMBED and ADD_BIAS."""
NORM_WEIGHT = 0
"""Index into `InstructionRecord.p` of NORM."""
K_CACHE, V_CACHE, KV_OF_HEAD, COS_SIN, Q_NORM, K_NORM = range(6)
"""Indices into `InstructionRecord.p` of QKV and ATTENTION."""
IN_STEP, OUT_STEP = 1, 3
"""Indices into `InstructionRecord.n` of PER_HEAD: columns from head to head."""
TOP_K, SIGMOID, NORMALIZE, GROUPS, TOP_GROUPS, GROUP_BEST = range(6)
"""Indices into `InstructionRecord.n` of ROUTE; the first of PLACE and COMBINE too."""
CORRECTION = 0
"""Index into `InstructionRecord.p` of ROUTE."""
MOST, HERE_LO, HERE_HI, EXPERTS = range(1, 5)
"""Indices into `InstructionRecord.n` of PLACE: replicas of an expert at most, the slots here, experts of the model."""
REPLICAS, SLOT_OF, TALLY, ENDS, ORDER, SORTED_WEIGHTS = range(6)
"""Indices into `InstructionRecord.p` of PLACE: what it reads, what it counts, what it gives beside `out`."""
TP, EP, PLACE_IN_BLOCK, FIRST_RANK = range(5, 9)
"""Indices into `InstructionRecord.n` of `DEAL`, besides those of PLACE: the block, this rank in it, its first rank."""
SENT_ROWS, SENT_ANSWERS, ARRIVED_WEIGHTS, SIZES, EDGES = range(6, 11)
"""Indices into `InstructionRecord.p` of `DEAL`, besides those of PLACE; routed.h says what they hold."""
GROUP, MEMBERS, POSITION, KIND = range(4)
"""Indices into `InstructionRecord.n` of ROUTED; `KIND`: which of `DEAL`'s sizes."""
TABLE = 9
"""Index into `InstructionRecord.n` of ATTENTION and `DEAL`: whose rows, 0 all, 1 the sampled ones."""
ADDENDS = 1
"""Index into `InstructionRecord.n` of COMBINE: ranks that each give a part of every answer; 0 counts as 1."""
SLOTS, WEIGHTS, COUNT = 0, 0, 0
"""Indices into `InstructionRecord.n` and `.p` of GROUPED, and into `.p` of GATHER and ROUTED: how many rows."""
WORKSPACE, WORK_CHUNKS = 3, 7
"""Indices into `InstructionRecord.p` and `.n` of ATTENTION: room for parts of long contexts, and how many chunks."""
EXCHANGE = 0
"""Index into `InstructionRecord.p` of COPY and of what other ranks take part in."""
EPS, SCALE = 0, 1
"""Indices into `InstructionRecord.f`."""

NUMBERS = """LO HELD EPILOGUE Q_HEADS KV_HEADS HEAD_DIM BLOCK_SIZE WINDOW ROPE_DIM PACKED_CACHE WORK_CHUNKS GROUP
TOP_K SIGMOID NORMALIZE GROUPS TOP_GROUPS GROUP_BEST MOST HERE_LO HERE_HI EXPERTS SLOTS ADDENDS TP
EP PLACE_IN_BLOCK FIRST_RANK MEMBERS POSITION KIND IN_STEP OUT_STEP TABLE""".split()
POINTERS = """WEIGHT BIAS K_CACHE V_CACHE KV_OF_HEAD COS_SIN WORKSPACE Q_NORM K_NORM NORM_WEIGHT
CORRECTION REPLICAS SLOT_OF TALLY WEIGHTS COUNT ENDS ORDER SORTED_WEIGHTS SENT_ROWS SENT_ANSWERS
ARRIVED_WEIGHTS SIZES EDGES EXCHANGE""".split()
FLOATS = ("EPS", "SCALE")
"""Names of the indices into `InstructionRecord.n`, `.p` and `.f`. Operations use the same ones for different things."""


@dataclass(frozen=True, slots=True)
class OpSpec:
    """`says`: what it does, for a person. `kernel`: its C++ function; empty for an exchange between ranks.
    `vectors`: indices of the pointers to vectors that it reads in the type in which it
    computes, fp32 or fp64; with `on_grid` that is fp64 for the exact model. `units`: it gives out units of work, of
    which other ranks may take some."""

    says: str
    kernel: str = ""
    vectors: tuple[int, ...] = ()
    on_grid: bool = False
    units: bool = False


OPS: Mapping[Op, OpSpec] = {
    Op.EMBED: OpSpec("out[r] = table row ids[r] - n[LO], zero where it is held elsewhere", "embed"),
    Op.NORM: OpSpec(
        "out[r] = rms norm of in0[r], which in1[r] is added to before, where there is one",
        "norm",
        (NORM_WEIGHT,),
        on_grid=True,
    ),
    Op.LINEAR: OpSpec("out[r] (op)= in0[r] @ weight^T + bias, by `epilogue`", "linear", (BIAS,), units=True),
    Op.QKV: OpSpec(
        "q/k norm, rope and cache write of packed rows [q heads | k heads | v heads]; out = rotated q",
        "qkv",
        (COS_SIN, Q_NORM, K_NORM),
        on_grid=True,
        units=True,
    ),
    Op.ATTENTION: OpSpec("out[r] = attention of q in in0[r] over the cache", "attention_of_table", units=True),
    Op.SILU_MUL: OpSpec("out[r] = silu(in0[r][:n]) * in0[r][n:]", "silu_mul"),
    Op.ADD: OpSpec("out[r] += in0[r]", "add"),
    Op.ADD_BIAS: OpSpec("out[r] += p[BIAS]", "add_bias", (BIAS,)),
    Op.SELECT: OpSpec(
        "in0, and in1 where there is one, keep rows step.sampled_rows alone, in place; out = in0", "select_rows"
    ),
    Op.COPY: OpSpec("a rectangle of rows and columns", "copy"),
    Op.ROUTE: OpSpec(
        "out[r] = choices by the router's logits in in0[r]; see experts.h", "route", (CORRECTION,), on_grid=True
    ),
    Op.PLACE: OpSpec("out[r] = where the answers to the choices in in0[r] will lie, sorted by slot", "place_choices"),
    Op.GATHER: OpSpec("rows of in0 in the order of p[ORDER]", "gather_rows"),
    Op.GROUPED: OpSpec("rows sorted by slot, each slot's times its own weight", "grouped_linear", units=True),
    Op.COMBINE: OpSpec("out[r] = weighted sum of the answers in in0 at the places in1[r]", "combine"),
    Op.DEAL: OpSpec(
        "out[r] = where the answers to the own choices arrive, by the block's choices in in0; see routed.h",
        "deal_choices",
    ),
    Op.LATENT: OpSpec(
        "latents of in1 go to the cache; out = the rotated parts of queries in in0; see latent.h",
        "latent",
        (COS_SIN, K_NORM),
        on_grid=True,
    ),
    Op.PER_HEAD: OpSpec("each head's columns of in0 times its own weight", "per_head", units=True),
    Op.ROUND: OpSpec("out = in0 on the exact model's grid", "round_rows"),
    Op.ALL_REDUCE: OpSpec("sum, gather or exchange of rows between ranks"),
    Op.ALL_GATHER: OpSpec("sum, gather or exchange of rows between ranks"),
    Op.REDUCE_SCATTER: OpSpec("sum, gather or exchange of rows between ranks"),
    Op.ALL_TO_ALL: OpSpec("sum, gather or exchange of rows between ranks"),
    Op.ROUTED: OpSpec("an all_to_all of rows with the sizes that `DEAL` found"),
}
