"""HTTP server, Python API, and the text around tokens."""
