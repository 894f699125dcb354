"""PipedConsole: a rich console whose output may go into a pipe."""

from __future__ import annotations

from rich.console import Console


class PipedConsole(Console):
    """Raises BrokenPipeError for a closed pipe, as print does."""

    def on_broken_pipe(self) -> None:
        """Called by rich where it would end the process."""
        raise BrokenPipeError
