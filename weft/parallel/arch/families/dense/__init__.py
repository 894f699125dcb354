"""Families that are a Llama with values of their own."""
