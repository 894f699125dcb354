"""The text worker: a process without torch that renders chat templates, tokenizes long texts and checks grammars.

What a client or a model file says takes time and memory there, within bounds, and never in the server's own process.
"""
