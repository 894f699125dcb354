"""Limits of one group's scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from weft.base.errors import ConfigError
from weft.base.settings import DEFAULT_LOGPROBS, EngineConfig
from weft.parallel.layout.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one attention-dp group: tokens, except `num_blocks` (KV blocks of `block_size` tokens) and `max_num_seqs`."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    num_blocks: int
    enable_prefix_caching: bool = True
    max_logprobs: int = DEFAULT_LOGPROBS
    """Alternatives of a token that a request may ask for."""
    keys_per_row: float = 0.0
    """Keys whose attention costs a row as much as its products with weights: chunks of a prompt take as long as each
    other. 0: they have as many rows as each other."""
    chunk: int = 1
    """Chunks of a prompt are whole multiples of so many tokens, where a step has room for as many."""
    owners: int = 1
    """Ranks that share the KV cache of a request by position."""

    @property
    def capacity(self) -> int:
        """Tokens whose keys and values fit into all blocks."""
        return self.num_blocks * self.block_size

    @property
    def shortage(self) -> str:
        """What leaves room for longer requests, where the KV cache and not the model limits them; else empty."""
        if self.max_model_len < self.capacity:
            return ""
        held = f"holds {self.capacity}"
        if self.owners > 1:
            held = f"of the {self.owners} ranks that share a context holds {self.capacity} together"
        more = "share a context over more ranks (--attn-cp-size)"
        return f"the KV cache {held}: raise --kv-cache-memory or --mem-fraction-static, or {more}"

    def whole_chunk(self, before: int, count: int, left: int) -> int:
        """Of `count` rows of a prompt after `before`, of which `left` are still to be planned: those up to the end of a
        whole chunk; all, where they are the last or no chunk ends in them."""
        over = (before + count) % self.chunk
        return count - over if count < left and over < count else count

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` positions."""
        return -(-tokens // self.block_size)


def limits_of(
    config: EngineConfig,
    num_blocks: int,
    keys_per_row: float = 0.0,
    vocab_size: int | None = None,
    layout: Layout | None = None,
) -> Limits:
    """The limits of a group with `num_blocks` KV blocks on each of its ranks. `vocab_size` None: it is not known.
    `layout`: where its ranks may share the KV cache of a request: a block is then one of each of them.

    ConfigError: max_model_len undecided, or a pool without blocks.
    """
    if config.max_model_len is None:
        raise ConfigError("max_model_len must be decided before the engine starts", field="max_model_len", value=None)
    if num_blocks < 1:
        raise ConfigError(
            f"the KV cache has {num_blocks} blocks of {config.tokens_per_block} tokens; at least 1 is needed: "
            "raise kv_cache_memory or mem_fraction_static",
            field="kv_cache_memory",
            value=num_blocks,
        )
    block_size = config.tokens_per_block * (layout.kv_owners if layout else 1)
    return Limits(
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.tokens_per_step,
        block_size=block_size,
        num_blocks=num_blocks,
        enable_prefix_caching=config.enable_prefix_caching,
        max_logprobs=max_logprobs(config, vocab_size),
        keys_per_row=keys_per_row,
        owners=layout.kv_owners if layout else 1,
        chunk=block_size if layout and layout.attention.cp > 1 else 1,
    )


def max_logprobs(config: EngineConfig, vocab_size: int | None) -> int:
    """`config.max_logprobs`; for -1 the whole vocabulary, or what a step's results have room for."""
    if config.max_logprobs >= 0:
        return config.max_logprobs
    return config.most_logprobs if vocab_size is None else min(config.most_logprobs, vocab_size)
