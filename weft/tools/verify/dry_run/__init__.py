"""Runs the model code as one rank of any world without weights, and counts memory and collectives."""
