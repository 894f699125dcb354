"""Slices of checkpoints as parameters: `check` (no torch), `loader`, and the parts of the loader."""
