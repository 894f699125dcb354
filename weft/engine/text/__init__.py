"""Text and token ids: tokenizer, chat templates, incremental detokenizer. No torch, no HTTP, no engine."""

from weft.engine.text.detokenizer import IncrementalDetokenizer
from weft.engine.text.tokenizer import Tokenizer

__all__ = ["IncrementalDetokenizer", "Tokenizer"]
