"""Engines over started ranks, for the server and for weft.LLM: replicas, streams, recovery and routing."""
