"""A plugin for pytest: the only variant of the step library is the plain one, with vectors as wide as AVX-512's.

What the sources hold for any width is so tried at one that this CPU may not have: the compiler takes such vectors
apart. What they hold in AVX-512's own instructions is not tried.
"""

from __future__ import annotations

from weft.native import isa

isa.FLAGS.clear()
isa.FLAGS["generic"] = ("-DWEFT_VECTOR_BYTES=64",)
