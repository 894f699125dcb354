"""Text and token ids: tokenizer, chat templates, incremental detokenizer. No torch, no HTTP, no engine."""

from weft.text.detokenizer import IncrementalDetokenizer
from weft.text.tokenizer import Tokenizer

__all__ = ["IncrementalDetokenizer", "Tokenizer"]
