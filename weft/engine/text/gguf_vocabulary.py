"""A `tokenizers` tokenizer from the metadata of a GGUF file. Knows two kinds of vocabulary, no chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from weft.base.errors import CheckpointError
from weft.base.fields import Fields, shown
from weft.base.printable import printable
from weft.engine.text.pieces import SPACE
from weft.engine.text.splits import PRE, Pre

LONGEST = 1024
"""Characters of a token; the longest of well-known vocabularies have 256."""
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
"""Token types of GGUF that matter here."""
Metadata = Mapping[str, Any]


def gguf_tokenizer(metadata: Metadata) -> Tokenizer:
    """Tokenizer of a file's `tokenizer.ggml.*` metadata: model `gpt2` (byte-level, with a known `pre`) or `llama`.

    CheckpointError: another model or `pre`, by name, or metadata that fits no vocabulary.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model not in ("gpt2", "llama"):
        raise CheckpointError(f"tokenizer.ggml.model {shown(model)} is not supported; supported: gpt2, llama")
    tokens = _items(metadata, "tokens", str)
    if any(len(token) > LONGEST for token in tokens):
        raise CheckpointError(f"tokenizer.ggml.tokens: a token of more than {LONGEST} characters")
    if not tokens:
        raise CheckpointError("tokenizer.ggml.tokens: missing")
    types = _items(metadata, "token_type", int) or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise CheckpointError(f"tokenizer.ggml.token_type: {len(types)} types for {len(tokens)} tokens")
    backend = _byte_level(metadata, tokens) if model == "gpt2" else _sentencepiece(metadata, tokens, types)
    _add(backend, tokens, types)
    return backend


def pre_of(metadata: Metadata) -> Pre:
    """The splitting rule that the file names."""
    name = metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(name, str) or name not in PRE:
        raise CheckpointError(f"tokenizer.ggml.pre {shown(name)} is not supported; supported: {', '.join(PRE)}")
    return PRE[name]


def adds_bos(metadata: Metadata) -> bool:
    """Whether encoding puts the BOS token first: what the file says, else its model's rule."""
    if (said := metadata.get("tokenizer.ggml.add_bos_token")) is not None:
        return Fields(metadata, "metadata key").flag("tokenizer.ggml.add_bos_token", bool(said))
    return metadata.get("tokenizer.ggml.model") == "llama" or pre_of(metadata).add_bos


def _items(metadata: Metadata, name: str, kind: type) -> list[Any]:
    """The list under tokenizer.ggml.`name`; empty where there is none."""
    items = metadata.get(f"tokenizer.ggml.{name}", [])
    if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
        raise CheckpointError(f"tokenizer.ggml.{name}: a list of {kind.__name__} is needed")
    return items


def _add(backend: Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Tokens that are matched whole in the text: control tokens (special) and user-defined ones."""
    control = [AddedToken(token, normalized=False, special=True) for token in _of_type(tokens, types, CONTROL)]
    defined = [AddedToken(token, normalized=False) for token in _of_type(tokens, types, USER_DEFINED)]
    if control:
        backend.add_special_tokens(control)
    if defined:
        backend.add_tokens(defined)


def _of_type(tokens: Sequence[str], types: Sequence[int], wanted: int) -> list[str]:
    return [token for token, kind in zip(tokens, types, strict=True) if kind == wanted and token]


def _byte_level(metadata: Metadata, tokens: Sequence[str]) -> Tokenizer:
    pre = pre_of(metadata)
    merges = [_pair(merge) for merge in _items(metadata, "merges", str)]
    backend = _bpe(tokens, merges, ignore_merges=pre.ignore_merges)
    if pre.nfc:
        backend.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(split), behavior="isolated") for split in pre.splits]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    backend.decoder = decoders.ByteLevel()
    return backend


def _pair(merge: str) -> tuple[str, str]:
    """The two tokens of a merge; the first may be a space itself."""
    at = merge.find(" ", 1)
    if at < 0:
        raise CheckpointError(f"tokenizer.ggml.merges do not fit tokenizer.ggml.tokens: {shown(merge)} is not two")
    return merge[:at], merge[at + 1 :]


def _sentencepiece(metadata: Metadata, tokens: Sequence[str], types: Sequence[int]) -> Tokenizer:
    merges = _items(metadata, "merges", str)
    pairs = [_pair(merge) for merge in merges] if merges else _scored_pairs(metadata, tokens, types)
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    if unknown is not None and not (isinstance(unknown, int) and 0 <= unknown < len(tokens)):
        raise CheckpointError(
            f"tokenizer.ggml.unknown_token_id: {shown(unknown)}; the vocabulary has {len(tokens)} tokens"
        )
    unk = None if unknown is None else tokens[unknown]
    backend = _bpe(tokens, pairs, byte_fallback=True, fuse_unk=True, unk_token=unk)
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    undone = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    backend.decoder = decoders.Sequence(undone)
    return backend


def _scored_pairs(metadata: Metadata, tokens: Sequence[str], types: Sequence[int]) -> list[tuple[str, str]]:
    """Every way two tokens make a third, best-scored third first: what SentencePiece's greedy merging comes to."""
    scores = _items(metadata, "scores", float)
    if len(scores) != len(tokens):
        raise CheckpointError(f"tokenizer.ggml.scores: {len(scores)} scores for {len(tokens)} tokens")
    mergeable = {
        token: score for token, score, kind in zip(tokens, scores, types, strict=True) if kind in (NORMAL, USER_DEFINED)
    }
    pairs = [
        (-score, -at, token[:at], token[at:])
        for token, score in mergeable.items()
        for at in range(1, len(token))
        if token[:at] in mergeable and token[at:] in mergeable
    ]
    pairs.sort(key=lambda pair: pair[:2])
    return [(left, right) for _, _, left, right in pairs]


def _bpe(tokens: Sequence[str], merges: Sequence[tuple[str, str]], **options: Any) -> Tokenizer:
    vocabulary = {token: id for id, token in enumerate(tokens)}
    try:
        return Tokenizer(BPE(vocab=vocabulary, merges=list(merges), **options))
    except Exception as error:  # the library raises plain Exception for merges that do not fit the vocabulary
        why = printable(str(error))
        raise CheckpointError(f"tokenizer.ggml.merges do not fit tokenizer.ggml.tokens: {why}") from error
