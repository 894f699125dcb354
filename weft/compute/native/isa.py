"""The instruction sets that kernels are built for, and which of them this process runs.

Flags are explicit, not -march=native: every variant can be built, and all that a CPU runs can be tested on it.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache
from pathlib import Path

from weft.base.errors import ConfigError

_AVX2 = ("-mavx2", "-mfma", "-mf16c", "-mbmi2")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
_VNNI = (*_AVX512, "-mavx512vnni")
_BF16 = (*_VNNI, "-mavx512bf16")
FLAGS = {
    "amx": (*_BF16, "-mamx-tile", "-mamx-bf16"),
    "avx512bf16": _BF16,
    "avx512vnni": _VNNI,
    "avx512": _AVX512,
    "avx2": _AVX2,
    "generic": (),
}
"""Compiler flags of each, best first."""

_NEEDED_AVX2 = frozenset({"avx2", "fma", "f16c", "bmi2"})
_NEEDED_AVX512 = _NEEDED_AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_NEEDED_VNNI = _NEEDED_AVX512 | {"avx512_vnni"}
_NEEDED_BF16 = _NEEDED_VNNI | {"avx512_bf16"}
_NEEDED = {
    "amx": _NEEDED_BF16 | {"amx_tile", "amx_bf16"},
    "avx512bf16": _NEEDED_BF16,
    "avx512vnni": _NEEDED_VNNI,
    "avx512": _NEEDED_AVX512,
    "avx2": _NEEDED_AVX2,
    "generic": frozenset(),
}
_SLOW_PAIRS_LATER = ("amx", "avx512vnni", "avx512bf16", "avx512", "avx2", "generic")
"""Best first where `pairs_are_slow`."""


def buildable() -> tuple[str, ...]:
    """The variants for this kind of machine, best first; its compiler makes them all, whatever the CPU runs."""
    return tuple(FLAGS) if platform.machine() in ("x86_64", "AMD64") else ("generic",)


def runnable() -> tuple[str, ...]:
    """Those of `buildable` that this CPU has the instructions for, and the system the registers, best first."""
    able = [name for name in buildable() if _NEEDED[name] <= cpu_flags() and (name != "amx" or tiles_allowed())]
    if pairs_are_slow():
        able.sort(key=_SLOW_PAIRS_LATER.index)
    return tuple(able)


def pairs_are_slow() -> bool:
    """Whether a product of bf16 pairs takes longer than the two multiply-adds of fp32 that it stands for.

    So it is on Intel's processors that have tile registers, where the system or the machine keeps these back.
    Products of fp32 take less time there, in measurements of 1 to 512 rows. They are recognized by their fp16
    arithmetic, which Cooper Lake, the first with such products, does not have.
    """
    return cpu_vendor() == "GenuineIntel" and "avx512_fp16" in cpu_flags()


def chosen() -> str:
    """The variant that this process runs: WEFT_NATIVE_ISA's, else the best. ConfigError for one that cannot run."""
    legal = runnable()
    forced = os.environ.get("WEFT_NATIVE_ISA", "")
    if forced and forced not in legal:
        raise ConfigError(
            f"WEFT_NATIVE_ISA {forced}: legal on this CPU: {', '.join(legal)}",
            field="WEFT_NATIVE_ISA",
            value=forced,
            legal=legal,
        )
    return forced or legal[0]


def suits_bf16_12bit(variant: str) -> bool:
    """Whether `variant` compresses bf16 to 12 bits by default: `weft_suits_bf16_12bit`, without loading a library."""
    return variant in ("amx", "avx512bf16", "avx2")


def suits_bf16_12bit_of_few(variant: str) -> bool:
    """Whether `variant` reads bf16 in 12 bits faster for a single row, but multiplies 8 to 32 rows slower."""
    return variant in ("avx512vnni", "avx512")


def suits_int8_activations(variant: str, bits: int) -> bool:
    """Whether `variant` is faster with int8 activations for quantized values of so many bits, for any number of rows.

    So it is where vectors add four products of bytes, but for tile registers, which many rows of bf16 fill; with codes
    of 4 bits also where they add two.
    """
    return variant in ("avx512bf16", "avx512vnni") or (variant == "avx2" and bits == 4)


_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _TILE_DATA = 158, 0x1023, 18
"""Of Linux on x86-64: Documentation/arch/x86/xstate.rst."""


@cache
def tiles_allowed() -> bool:
    """Asks the system for tile registers, which it gives to processes that ask; theirs are all its later threads'."""
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _TILE_DATA) == 0)


def cpu_flags() -> frozenset[str]:
    """The features that the first processor names; none where the system does not say."""
    return frozenset(_said_of_cpu("flags").split())


def cpu_vendor() -> str:
    """GenuineIntel, AuthenticAMD, ...; empty where the system does not say."""
    return _said_of_cpu("vendor_id")


@cache
def _said_of_cpu(name: str) -> str:
    """What the system says of the first processor under a name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    line = next((line for line in text.splitlines() if line.startswith(name)), "")
    return line.partition(":")[2].strip()
