"""Dry run: the real model code as one rank of any world, on tensors without content. Memory, collectives: counted."""
