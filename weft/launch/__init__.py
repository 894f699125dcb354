"""Processes: what is started, by whom it is watched, and how it ends. The supervisor's files import no torch."""
