"""Checkpoints, layers, and the recorded program of a step."""
