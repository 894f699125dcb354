"""Algorithms that turn expert loads into a placement."""
