"""Grammars that answers keep to: the texts of requests as grammars, and automata over token ids. No torch."""
