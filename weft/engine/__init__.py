"""Scheduler, KV cache, tokenizers; no torch."""
