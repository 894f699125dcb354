"""Starts the ranks' processes, watches them and sends them steps."""
