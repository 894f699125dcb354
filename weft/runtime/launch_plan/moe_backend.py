"""How routed experts run: what was asked for, or the first way that can be."""

from __future__ import annotations

from weft.base.errors import ConfigError
from weft.base.settings import DTYPE_BYTES, MOE_BACKENDS
from weft.compute.native import missing_reason

GROUPED_ROW_BYTES = 16
"""torch's grouped product takes rows of whole multiples of it, in any dtype but float64."""


def resolve_moe_backend(asked: str, dtype: str, experts: int, hidden: int, why_not_packed: str) -> str:
    """How a model with `experts` multiplies rows of `hidden` columns: what was asked for, or for 'auto' the first that
    can be; 'auto' for a dense model. `why_not_packed`: what keeps this machine from packed products, or nothing.
    ConfigError for what cannot be."""
    if not experts:
        if asked == "auto":
            return asked
        message = f"moe_backend {asked}: the model has no experts; leave it out"
        raise ConfigError(message, field="moe_backend", value=asked, legal=("auto",))
    unfit = {"packed": why_not_packed}
    if dtype == "float64":
        unfit["grouped"] = "torch has no grouped product in float64"
    elif hidden * DTYPE_BYTES[dtype] % GROUPED_ROW_BYTES:
        unfit["grouped"] = f"rows of {hidden} x {dtype} are no whole multiple of {GROUPED_ROW_BYTES} bytes"
    legal = tuple(each for each in MOE_BACKENDS if not unfit.get(each))
    if asked == "auto":
        return legal[0]
    if asked not in legal:
        message = f"moe_backend {asked}: {unfit[asked]}; legal: {', '.join(('auto', *legal))}"
        raise ConfigError(message, field="moe_backend", value=asked, legal=("auto", *legal))
    return asked


def why_not_packed(device: str, dtype: str) -> str:
    """What keeps matrices from being packed, for a person; empty where nothing does."""
    if device != "cpu":
        return f"matrices are packed on the CPU only, not on {device}"
    return f"no kernels in {dtype}" if dtype == "float16" else missing_reason("step")
