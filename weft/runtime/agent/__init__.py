"""The agent of a host: starts the ranks of its host for host 0, and says how they are."""
