"""Slices of checkpoints as parameters: `check` (no torch), `loader`, and what the loader stands on."""
