"""Collectives over memory that the ranks of one machine share."""
