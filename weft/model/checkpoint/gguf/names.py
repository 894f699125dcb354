"""Tensors of a GGUF file under HF's names: fused experts one by one, and what MLA unfolds its latents with in one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from weft.model.checkpoint.checkpoint import Json
from weft.model.checkpoint.gguf.rope import FACTORS
from weft.model.checkpoint.tensors import TensorInfo
from weft.parallel.arch.family import ModelFamily
from weft.parallel.arch.reading.config import MOST_EXPERTS

BLOCK = re.compile(r"blk\.(\d{1,9})\.([\w.]+?)(\.(?:weight|bias))?")
HEADS = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
"""Sizes of the modules whose rows a file may have in another order."""
K_B, V_B, KV_B = ".k_b_proj.weight", ".v_b_proj.weight", ".kv_b_proj.weight"


def named(tensors: Iterable[TensorInfo], family: ModelFamily, config: Json) -> tuple[dict[str, TensorInfo], list[str]]:
    """By HF's names; and the file's own names of what the model does not need."""
    found: dict[str, TensorInfo] = {}
    ignored: list[str] = []
    for tensor in tensors:
        block = BLOCK.fullmatch(tensor.source)
        if tensor.source in FACTORS or (block and int(block[1]) >= config["num_hidden_layers"]):
            ignored.append(tensor.source)
        else:
            found |= {each.name: each for each in _named(tensor, block, family, config)}
    return _with_unfolding(found, ignored), ignored


def _named(tensor: TensorInfo, block: re.Match[str] | None, family: ModelFamily, config: Json) -> Iterator[TensorInfo]:
    names, form = family.names, family.gguf
    if block is None or form is None:
        yield replace(tensor, name=names.of_gguf.get(tensor.source, tensor.source))
        return
    layer, module, ending = names.layer.format(block[1]), block[2], block[3] or ""
    places = {**names.of_gguf_layer, **form.tensors}
    if experts := names.of_gguf_experts.get(module):
        yield from _experts(tensor, f"{layer}.{names.experts}.experts", experts, ending)
    elif (whole := places.get(f"{module}{ending}")) and (not ending or f"{module}{ending}" != module):
        yield replace(tensor, name=f"{layer}.{whole}")
    elif place := places.get(module):
        heads = config[HEADS[module]] if module in form.permuted else 0
        yield replace(tensor, name=f"{layer}.{place}{ending}", heads=heads)
    else:
        yield tensor


def _experts(tensor: TensorInfo, layer: str, modules: tuple[str, ...], ending: str) -> Iterator[TensorInfo]:
    """Records of each expert's own bytes in `tensor`, whose first dim counts experts."""
    count, rows = tensor.shape[0], tensor.shape[1] if len(tensor.shape) > 1 else 0
    if not rows or rows % len(modules) or count > MOST_EXPERTS:
        yield tensor
        return
    shape = (rows // len(modules), *tensor.shape[2:])
    step = tensor.nbytes // count // len(modules)
    for number in range(count * len(modules)):
        expert, part = divmod(number, len(modules))
        yield replace(
            tensor,
            name=f"{layer}.{expert}.{modules[part]}{ending}",
            shape=shape,
            offset=tensor.offset + number * step,
            nbytes=step,
            source=f"{tensor.source}[{expert}]",
        )


def _with_unfolding(found: dict[str, TensorInfo], ignored: list[str]) -> dict[str, TensorInfo]:
    """`found` with one matrix in place of two that have the same numbers, head by head, one of them transposed."""
    for name in [name for name in found if name.endswith(K_B)]:
        stem = name.removesuffix(K_B)
        keys, values = found[name], found.get(f"{stem}{V_B}")
        if values is None or len(keys.shape) != 3 or len(values.shape) != 3 or keys.shape[0] != values.shape[0]:
            continue
        del found[name], found[f"{stem}{V_B}"]
        if f"{stem}{KV_B}" in found:
            ignored += [keys.source, values.source]
            continue
        heads, rank, nope = keys.shape
        pair = tuple(replace(each, shape=(heads * each.shape[1], each.shape[2])) for each in (keys, values))
        shape, nbytes = (heads * (nope + values.shape[1]), rank), keys.nbytes + values.nbytes
        found[f"{stem}{KV_B}"] = TensorInfo(
            f"{stem}{KV_B}", shape, "F32", keys.file, keys.offset, nbytes, keys.source, by_head=pair
        )
    return found
