"""A model's files, from their headers: config, tensor table, tokenizer source. No torch, no layout."""

from weft.model.checkpoint.checkpoint import Checkpoint, TokenizerSource
from weft.model.checkpoint.hub.embedded import embedded_model
from weft.model.checkpoint.open import open_checkpoint
from weft.model.checkpoint.tensors import TensorInfo

__all__ = ["Checkpoint", "TensorInfo", "TokenizerSource", "embedded_model", "open_checkpoint"]
