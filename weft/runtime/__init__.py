"""Processes of ranks, and what starts and watches them."""
