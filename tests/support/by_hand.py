"""Pythons whose only variant of the step library is one that this CPU need not run: its instructions are written out.

`python_of` makes one, and so does each process that it starts; AVX-512's and AMX's own words in the sources, which
tests/compute/native/avx512_by_hand.h explains to the compiler, are so tried wherever there is AVX2. How fast they are,
it does not say.
"""

from __future__ import annotations

import hashlib
import sysconfig
import venv
from pathlib import Path

from weft.compute.native import isa, libraries

ROOT = Path(__file__).resolve().parents[2]
INSTRUCTIONS = ROOT / "tests" / "compute" / "native" / "avx512_by_hand.h"
LEVELS = ("avx512", "avx512vnni", "avx512bf16", "amx")


def python_of(variant: str, folder: Path) -> Path:
    """An interpreter with this one's packages, made in `folder`, for which `put_in_place` holds from its start on."""
    venv.create(folder, with_pip=False, symlinks=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    lines = (str(ROOT), sysconfig.get_path("purelib"), f"import {__name__}; {__name__}.put_in_place({variant!r})")
    (own / "by_hand.pth").write_text("".join(f"{line}\n" for line in lines))
    return folder / "bin" / "python"


def _flags(variant: str) -> tuple[str, ...]:
    """The compiler's defines for all libraries that `variant` is to load."""
    return (
        *isa.FLAGS["avx2"],
        "-Wno-psabi",
        "-Wno-uninitialized",
        f"-DWEFT_BY_HAND={LEVELS.index(variant) + 1}",
        f"-DINSTRUCTIONS={hashlib.sha256(INSTRUCTIONS.read_bytes()).hexdigest()[:16]}",
        "-include",
        str(INSTRUCTIONS),
    )


def put_in_place(variant: str) -> None:
    """From now on this process knows `variant` alone, and what it compiles is compiled with `INSTRUCTIONS`."""
    if tuple(isa.FLAGS) == (variant,):
        return  # the interpreter may read a folder's .pth files twice
    flags = _flags(variant)
    isa.FLAGS.clear()
    isa.FLAGS[variant] = ("-O1",)  # with the library's default flags the compiler takes longer still
    isa.runnable = lambda: (variant,)
    # What is there for this CPU stays, and what another variant's Python has made.
    libraries.directories = lambda: (libraries.SOURCES / "_build" / "by_hand" / variant,)
    libraries.FLAGS = (*(flag for flag in libraries.FLAGS if flag != "-march=native"), *flags)
