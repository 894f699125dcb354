"""Proof for a real model: a layout against one rank, by logits, tokens and modules. Knows no command line."""
