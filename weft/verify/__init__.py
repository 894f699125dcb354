"""Verify: a layout against one rank. Recording, comparison, and the name of the first module that differs."""
