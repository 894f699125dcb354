"""Placements of experts on ranks: slots, routing tables, and the moves from one to another."""
