"""Collectives between ranks: one seam (`base`), three backends, and running a layout's transitions over them.

Import from the modules: `region`, `native_comm` and `groups` need no torch, and a supervisor uses only those.
"""
