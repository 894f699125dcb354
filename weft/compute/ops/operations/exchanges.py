"""Operations that move rows, between ranks or within one. Transitions record them; layers never call them."""

from __future__ import annotations

from weft.compute.ops.operations.declare import OpCode, P, numbers

GROUP, MEMBERS, POSITION, KIND = numbers(4)
"""Of ROUTED, `GROUP` of SEND and RECV too; `KIND`: which of DISPATCH's sizes."""
EXCHANGE = P(0)
"""Of COPY and of what other ranks take part in."""


class ExchangeCodes:
    """Their numbers."""

    COPY = OpCode(10, "a rectangle of rows and columns", "runtime/exchange.h:copy")
    ALL_REDUCE = OpCode(22, "sum of rows over ranks")
    ALL_GATHER = OpCode(23, "rows of all ranks on each")
    REDUCE_SCATTER = OpCode(24, "sum of rows over ranks, each keeps its own")
    ALL_TO_ALL = OpCode(25, "exchange of rows between ranks")
    ROUTED = OpCode(26, "an all_to_all of rows with the sizes that DISPATCH found")
    SEND = OpCode(27, "all rows of in0 to the other rank of group n[GROUP]; out = in0")
    RECV = OpCode(28, "out = the oldest rows that the other rank of group n[GROUP] sent")
    PARTIALS = OpCode(29, "an all_to_all in which the columns of each member lie together, one member after the other")
