"""How byte-level vocabularies split a text before merging: the rules that a GGUF's `tokenizer.ggml.pre` names.

Each rule is a list of regular expressions applied one after the other; what an expression matches, and what lies
between its matches, are pieces of their own. Names and expressions are llama.cpp's, where they agree with the models'
own tokenizer.json.
"""

from __future__ import annotations

from dataclasses import dataclass

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LINES = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{LINES}"
QWEN2 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{LINES}"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Pre:
    """nfc: the text is normalized first. ignore_merges: a piece that is a token is not merged from its parts. add_bos:
    BOS comes first where the file does not say."""

    splits: tuple[str, ...]
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


DEFAULT = Pre((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))
PLAIN = Pre((GPT2,))
DIGITS = Pre((r"\p{N}", GPT2))
LLAMA_BPE = Pre((LLAMA3,), ignore_merges=True, add_bos=True)
QWEN = Pre((QWEN2,), nfc=True)

PRE: dict[str, Pre] = {
    "default": DEFAULT,
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt"), PLAIN),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), LLAMA_BPE),
    **dict.fromkeys(("smaug-bpe", "dbrx"), Pre((LLAMA3,))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), QWEN),
    "tekken": Pre((TEKKEN,), ignore_merges=True, add_bos=True),
}
"""Splitting rules by GGUF name."""
