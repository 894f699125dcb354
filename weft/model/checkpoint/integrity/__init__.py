"""Hashes of checkpoint files: which are known, which were computed, and their comparison."""
