"""Layouts, architectures, and what each rank holds; no torch."""
