"""A console of commands whose output goes into a pipe as well as to a terminal. Knows no command."""

from __future__ import annotations

from rich.console import Console


class PipedConsole(Console):
    """Leaves a reader that has gone to the program, as print does."""

    def on_broken_pipe(self) -> None:
        """Called by rich where it would end the process."""
        raise BrokenPipeError
