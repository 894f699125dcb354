"""Options of other programs (llama.cpp, vLLM's short forms, SGLang, Hugging Face) and weft's option for each."""

from __future__ import annotations

from collections.abc import Collection, Sequence

MODEL = "the model is named without a flag"
COUNTERPARTS = {
    "--max-model-len": ("-c", "--ctx-size", "--context-length", "--context-size", "--num-ctx", "--max-seq-len"),
    "--tp": ("-tp", "--tp-size", "--tensor-parallel", "--num-gpus", "--split-mode", "-sm", "--tensor-split", "-ts"),
    "--attn-dp-size": ("-dp", "--dp", "--dp-size"),
    "--moe-ep-size": ("-ep", "--ep", "--ep-size", "--enable-expert-parallel"),
    "--pipeline-parallel-size": ("-pp", "--pp", "--pp-size"),
    "--device": ("--n-gpu-layers", "--gpu-layers", "-ngl", "--main-gpu", "-mg"),
    "--threads": ("-t", "--threads-batch", "-tb", "--num-threads"),
    "--max-num-seqs": ("-np", "--parallel", "--max-running-requests", "--max-batch-size"),
    "--max-num-batched-tokens": ("-b", "--batch-size", "-ub", "--ubatch-size", "--chunked-prefill-size"),
    "--kv-cache-memory": ("--kv-cache-size",),
    "--served-model-name": ("-a", "--alias"),
    "--api-key-file": ("--key-file",),
    "--layout": ("--config",),
    "--max-tokens": ("-n", "--n-predict", "--predict", "--max-new-tokens"),
    "--temperature": ("--temp",),
    "--repetition-penalty": ("--repeat-penalty",),
    "--dtype": ("--torch-dtype",),
    MODEL: ("-m", "--model", "--model-path", "-hf", "--hf-repo", "-hfr"),
}
"""weft's option -> what others call it."""

_BY_NAME = {name: ours for ours, names in COUNTERPARTS.items() for name in names}


def counterpart(flag: str, flags: Collection[str]) -> str | None:
    """'use --max-model-len' for another program's `flag`; None where a command with these `flags` has nothing."""
    ours = _BY_NAME.get(flag.replace("_", "-") if flag.startswith("--") else flag)
    if ours == MODEL:
        return MODEL
    return f"use {ours}" if ours in flags else None


def short_form(words: Sequence[str], flags: Collection[str]) -> str | None:
    """The first word such as -tp or -hf, which a parser would read as -t or -h with a value."""
    return next(
        (word for word in words if len(word) > 2 and word in _BY_NAME and word[1] != "-" and word not in flags), None
    )
