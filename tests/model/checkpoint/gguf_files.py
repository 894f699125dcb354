"""GGUF files written again by the gguf package, with all numbers in F32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.support.checkpoints import READER, Array

Tensors = dict[str, Array]


def rewritten(
    file: Path,
    to: Path,
    change: Callable[[Tensors], Tensors] = dict,
    keys: Mapping[str, Any] | None = None,
    architecture: str = "",
) -> Path:
    """`file` as `to`; `change` gives its tensors; `keys`: other values of keys, None: left out; `architecture`: another
    name of it."""
    reader = READER(file)
    old = str(reader.fields["general.architecture"].contents())
    new = architecture or old
    writer = gguf.GGUFWriter(to, new)
    fields = {key.replace(f"{old}.", f"{new}.", 1): field for key, field in reader.fields.items()}
    given = keys or {}
    for key, field in fields.items():
        value = given.get(key, field.contents())
        if not key.startswith("GGUF.") and key != "general.architecture" and value is not None:
            writer.add_key_value(key, value, field.types[0], field.types[1] if len(field.types) > 1 else None)
    for key, value in given.items():
        if key not in fields:
            writer.add_array(key, value) if isinstance(value, list) else writer.add_uint32(key, value)
    tensors = {
        each.name: np.array(gguf.quants.dequantize(each.data, each.tensor_type).reshape(each.shape[::-1].tolist()))
        for each in reader.tensors
    }
    for name, numbers in change(tensors).items():
        writer.add_tensor(name, np.ascontiguousarray(numbers))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to
