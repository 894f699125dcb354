"""HostLauncher: what the agent pool asks of a launcher that starts the agents itself, as Ray does."""

from __future__ import annotations

from typing import Protocol

from weft.base.errors import WeftError


class HostLauncher(Protocol):
    """What starts the agents, and starts them again."""

    def give_up(self) -> WeftError | None:
        """Why agents that are waited for cannot come."""

    def rest(self) -> None:
        """Starts none from here on: they are about to be asked to end."""

    def close(self) -> None:
        """Ends what it has started."""
