"""Compares a layout with one rank for a real model: logits, tokens and module outputs."""
