"""Upcycling: every expert is a copy of the layer's MLP, and the weights of a row's top-k add up to one.

So the mixture answers as the dense model does, whatever the router says ("Sparse Upcycling", Komatsuzaki et al. 2022,
with normalized top-k weights); the router decides only which expert works, and is made as skewed as asked. The result
is a checkpoint of the matching family (Llama, Mistral -> Mixtral; Qwen3 -> Qwen3-MoE) that any engine reads.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from weft.base.errors import ConfigError
from weft.base.options import check_range
from weft.base.plural import size, up_to
from weft.engine.text import Tokenizer
from weft.model.checkpoint import Checkpoint
from weft.model.checkpoint.safetensors.text_files import TEXT
from weft.model.weights.reader import SliceReader
from weft.parallel.arch.config import ModelConfig
from weft.tools.upcycle.routers import Skew, layer_inputs, router_rows

SHARD_BYTES = 2**31
COPIED = (*TEXT, "generation_config.json")


@dataclass(frozen=True, slots=True)
class Target:
    """A family with experts: its config's words, and its tensors' names."""

    architecture: str
    model_type: str
    words: Callable[[ModelConfig, int, int], dict[str, Any]]
    block: str
    names: dict[str, str]


def _mixtral(config: ModelConfig, experts: int, top_k: int) -> dict[str, Any]:
    return {"num_local_experts": experts, "num_experts_per_tok": top_k}


def _qwen3_moe(config: ModelConfig, experts: int, top_k: int) -> dict[str, Any]:
    wide = {"moe_intermediate_size": config.intermediate_size, "decoder_sparse_step": 1, "mlp_only_layers": []}
    return {"num_experts": experts, "num_experts_per_tok": top_k, "norm_topk_prob": True, **wide}


_W = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
_PROJ = {name: name for name in _W}
TARGETS = {
    "llama": Target("MixtralForCausalLM", "mixtral", _mixtral, "block_sparse_moe", _W),
    "mistral": Target("MixtralForCausalLM", "mixtral", _mixtral, "block_sparse_moe", _W),
    "qwen3": Target("Qwen3MoeForCausalLM", "qwen3_moe", _qwen3_moe, "mlp", _PROJ),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to make: experts, choices a row, skew of the routing, seed of the routers, dtype of the weights."""

    experts: int
    top_k: int
    skew: Skew
    seed: int
    dtype: torch.dtype


def target_of(config: ModelConfig) -> Target:
    """ConfigError: a family without a counterpart that has experts, or with biases that the counterpart lacks."""
    found = TARGETS.get(config.family)
    block = config.block
    biased = config.family != "qwen3" and (block.qkv_bias or block.o_bias or block.mlp_bias)
    if found is None or biased or config.moe is not None:
        why = "it has experts" if config.moe else "with biases" if biased else f"family {config.family}"
        raise ConfigError(
            f"upcycle: {why}; a dense model without biases of these families is needed: {', '.join(TARGETS)}",
            field="family",
            value=config.family,
            legal=tuple(TARGETS),
        )
    return found


def upcycle(checkpoint: Checkpoint, recipe: Recipe, out: Path, say: Callable[[str], None]) -> None:
    """Writes the mixture to the directory `out`, which must not exist or be empty."""
    config = checkpoint.model_config()
    target = target_of(config)
    check_range("--top-k", recipe.top_k, 1, recipe.experts)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: exists already and is not an empty directory", field="out", value=str(out))
    _check_room(checkpoint, config, recipe, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}", field="out", value=str(out)) from None
    say(f"looking at the inputs of {config.num_layers} MLPs on a sample text")
    routers = router_rows(layer_inputs(checkpoint, config), recipe.experts, recipe.skew, recipe.seed)
    say(f"writing {recipe.experts} copies of every MLP to {out}")
    _write_tensors(_tensors(checkpoint, config, target, recipe, routers), out)
    _write_config(checkpoint, config, target, recipe, out)
    _write_tokenizer(checkpoint, out)


def _check_room(checkpoint: Checkpoint, config: ModelConfig, recipe: Recipe, out: Path) -> None:
    """ConfigError: the disk of `out` has less room than the mixture takes, which would be seen after many copies."""
    numbers = {name: math.prod(info.shape) for name, info in checkpoint.tensors.items() if not _left_out(name, config)}
    expert = sum(count for name, count in numbers.items() if ".mlp." in name)
    expert += config.num_layers * config.hidden_size  # its rows of the routers
    rest = sum(count for name, count in numbers.items() if ".mlp." not in name)
    place = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    needed, free = (rest + recipe.experts * expert) * recipe.dtype.itemsize, shutil.disk_usage(place).free
    if needed <= free:
        return
    most = (free // recipe.dtype.itemsize - rest) // expert
    fewer = f"; legal: {up_to(most)}, or an --out on another disk" if most >= recipe.top_k else "; give another --out"
    raise ConfigError(
        f"--experts {recipe.experts}: the checkpoint takes {size(needed)}, {place} has {size(free)} free{fewer}",
        field="experts",
        value=recipe.experts,
    )


def _left_out(name: str, config: ModelConfig) -> bool:
    """Of what the dense checkpoint has: its tied head, once more."""
    return name == "lm_head.weight" and config.tie_embeddings


def _tensors(
    checkpoint: Checkpoint, config: ModelConfig, target: Target, recipe: Recipe, routers: list[Tensor]
) -> Iterator[tuple[str, Tensor]]:
    with SliceReader() as reader:
        for name, info in checkpoint.tensors.items():
            if _left_out(name, config):
                continue
            whole = torch.cat([values.to(recipe.dtype) for _, values in reader.pieces(info, None, None)])
            layer, _, rest = name.partition(".mlp.")
            if not rest:
                yield name, whole
                continue
            short = target.names[rest.removesuffix(".weight")]
            for expert in range(recipe.experts):
                yield f"{layer}.{target.block}.experts.{expert}.{short}.weight", whole.clone()
    for layer_number, router in enumerate(routers):
        yield f"model.layers.{layer_number}.{target.block}.gate.weight", router.to(recipe.dtype)


def _write_tensors(tensors: Iterator[tuple[str, Tensor]], out: Path) -> None:
    """Shards of about SHARD_BYTES, and their index."""
    shard: dict[str, Tensor] = {}
    files: dict[str, str] = {}
    size = total = number = 0

    def flush() -> None:
        nonlocal shard, size, number
        if shard:
            number += 1
            file = f"model-{number:05d}.safetensors"
            (out / file).touch()
            mode = (out / file).stat().st_mode
            save_file(shard, out / file, metadata={"format": "pt"})
            (out / file).chmod(mode)  # the library's own file is for its owner alone
            files.update(dict.fromkeys(shard, file))
            shard, size = {}, 0

    for name, tensor in tensors:
        if size + tensor.nbytes > SHARD_BYTES:
            flush()
        shard[name] = tensor.contiguous()
        size, total = size + tensor.nbytes, total + tensor.nbytes
    flush()
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _write_config(checkpoint: Checkpoint, config: ModelConfig, target: Target, recipe: Recipe, out: Path) -> None:
    kept = {key: value for key, value in checkpoint.config.items() if not key.startswith("weft_")}
    words = {
        **kept,
        "architectures": [target.architecture],
        "model_type": target.model_type,
        "torch_dtype": str(recipe.dtype).removeprefix("torch."),
        **target.words(config, recipe.experts, recipe.top_k),
    }
    words.pop("dtype", None)
    (out / "config.json").write_text(json.dumps(words, indent=1))


def _write_tokenizer(checkpoint: Checkpoint, out: Path) -> None:
    """A directory's own files; from a GGUF, the tokenizer that its metadata describes."""
    source = Path(checkpoint.path)
    if source.is_dir():
        for name in COPIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, out / name)
    elif checkpoint.tokenizer is not None:
        tokenizer = Tokenizer.from_checkpoint(checkpoint)
        for name, text in tokenizer.as_files().items():
            (out / name).write_text(text, encoding="utf-8")
