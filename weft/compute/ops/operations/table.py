"""All operations, by name and by number."""

from __future__ import annotations

from weft.compute.ops.operations import attention, declare, dense, exchanges, experts

MODULES = (dense, attention, experts, exchanges)
"""Those that declare operations and the indices of their operands."""


class Op(dense.DenseCodes, attention.AttentionCodes, experts.ExpertCodes, exchanges.ExchangeCodes):
    """What an instruction does: the operations by name."""


OPS = declare.codes(*Op.__bases__)
EXCHANGES = tuple(code for code in OPS.values() if not code.kernel)
"""Those in which other ranks take part."""
