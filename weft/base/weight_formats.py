"""Names and sizes of the formats that weight matrices are stored in: one row each, without torch.

`weft/compute/quant/` has a module for each row that is kept, which packs and unpacks; `package_blocks` unpacks the
others. Settings, the readers of files, the memory plan and `weft explain` read these rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Chosen(StrEnum):
    """How a format is chosen."""

    OPTION = "option"
    """A value of --quantization: matrices are rounded when they are loaded."""
    FILE = "file"
    """The format of a tensor in a GGUF file."""
    LOSSLESS = "lossless"
    """--compress-weights: no number changes."""


@dataclass(frozen=True, slots=True)
class FormatSizes:
    """A block of `rows` rows and `numbers` columns takes `nbytes` bytes, scales included."""

    chosen: Chosen
    bits: int
    """Of a quantized value."""
    numbers: int
    """Columns, input features, that share a block; 1: no scale depends on where a row is split."""
    nbytes: int
    rows: int = 1
    row_bytes: int = 0
    """Of what a whole row has besides blocks, its scale."""
    scale_bytes: int = 0
    """Of the fp16 numbers that a block in a file begins with."""
    dtypes: tuple[str, ...] = ("bfloat16", "float32")
    """Dtypes of activations that such a matrix is multiplied with."""
    kept: bool = True
    """Whether matrices stay in this format in memory; else they are unpacked when they are loaded."""
    lm_head: str = ""
    """Format of lm_head, where it needs a more exact one: logits choose the tokens."""

    def matrix_bytes(self, rows: int, depth: int) -> int:
        """Bytes of a matrix [rows, depth]; the last block of a row is a whole one."""
        return rows * -(-depth // self.numbers) * self.nbytes // self.rows + rows * self.row_bytes


LOSSLESS = "lossless_bf16"

FORMATS: dict[str, FormatSizes] = {
    "int8": FormatSizes(Chosen.OPTION, bits=8, numbers=1, nbytes=1, row_bytes=4),
    "int4": FormatSizes(Chosen.OPTION, bits=4, numbers=32, nbytes=18, lm_head="int8"),
    # 12 bits a number; 8 bytes for each group, and 4 for one number that does not fit its group
    LOSSLESS: FormatSizes(Chosen.LOSSLESS, bits=12, rows=32, numbers=32, nbytes=32 * 32 * 12 // 8 + 8 + 4),
    # Blocks stand for numbers of bf16: in fp32 they would not be the file's.
    "Q8_0": FormatSizes(Chosen.FILE, bits=8, numbers=32, nbytes=34, scale_bytes=2, dtypes=("bfloat16",)),
    "Q4_0": FormatSizes(Chosen.FILE, bits=4, numbers=32, nbytes=18, scale_bytes=2, dtypes=("bfloat16",)),
    "Q4_1": FormatSizes(Chosen.FILE, bits=4, numbers=32, nbytes=20, scale_bytes=4, dtypes=("bfloat16",)),
    # Blocks whose scales no kernel holds: bits of a value, numbers and bytes of a block.
    **{
        name: FormatSizes(Chosen.FILE, bits, numbers, nbytes, kept=False)
        for name, bits, numbers, nbytes in (
            ("Q5_0", 5, 32, 22),
            ("Q5_1", 5, 32, 24),
            ("Q2_K", 2, 256, 84),
            ("Q3_K", 3, 256, 110),
            ("Q4_K", 4, 256, 144),
            ("Q5_K", 5, 256, 176),
            ("Q6_K", 6, 256, 210),
            ("IQ1_S", 1, 256, 50),
            ("IQ1_M", 1, 256, 56),
            ("IQ2_XXS", 2, 256, 66),
            ("IQ2_XS", 2, 256, 74),
            ("IQ2_S", 2, 256, 82),
            ("IQ3_XXS", 3, 256, 98),
            ("IQ3_S", 3, 256, 110),
            ("IQ4_NL", 4, 32, 18),
            ("IQ4_XS", 4, 256, 136),
            ("TQ1_0", 1, 256, 54),
            ("TQ2_0", 2, 256, 66),
            ("MXFP4", 4, 32, 17),
            ("NVFP4", 4, 64, 36),
        )
    },
}


def chosen_by(how: Chosen) -> dict[str, FormatSizes]:
    """The rows that are chosen in one way, by name."""
    return {name: sizes for name, sizes in FORMATS.items() if sizes.chosen is how}


def kept_blocks() -> dict[str, FormatSizes]:
    """Formats of files whose blocks stay as they are with --quantization gguf, by name."""
    return {name: sizes for name, sizes in chosen_by(Chosen.FILE).items() if sizes.kept}


def format_name(quantization: str, lm_head: bool = False) -> str | None:
    """The format that --quantization `quantization` rounds a matrix to; None for none and gguf."""
    sizes = chosen_by(Chosen.OPTION).get(quantization)
    if sizes is None:
        return None
    return sizes.lm_head or quantization if lm_head else quantization
