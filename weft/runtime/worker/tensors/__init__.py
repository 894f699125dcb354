"""A rank's tensors: inputs of a step, caches, graphs, expert slots."""
