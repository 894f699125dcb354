"""The error families of weft and the exit code each one ends a command with.

WeftError                     70  internal
|- UsageError                  2  the command line itself
|- ConfigError                78  a setting: field, value, legal values, what to change
|  `- LayoutError             78  a size or a combination of sizes
|- CheckpointError            65  files of a model; carries every problem found
|  `- FieldError              65  a field in them; a ConfigError too
|- PeerError                  69  another rank, named
|  |- MismatchError           69  ranks that are in different collectives
|  |- DeadlockError           69  no rank can go on; names rank and collective
|  `- HostLostError           69  another host, named
|- UnavailableError          69  a server or a hub that cannot be reached
`- RequestError               --  one request's fault: HTTP status and the field (`param`)
"""

from __future__ import annotations

from collections.abc import Sequence

from weft.base.deaths import Death
from weft.base.printable import printable

MOST_PROBLEMS = 10
"""Problems of a checkpoint that are shown."""


class WeftError(Exception):
    """Base of every error that weft raises on purpose."""

    exit_code = 70


class UsageError(WeftError):
    """The command line cannot be understood."""

    exit_code = 2


class ConfigError(WeftError, ValueError):
    """A setting is impossible; says the field, the value, the legal values and what to change."""

    exit_code = 78

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        value: object = None,
        legal: Sequence[object] = (),
    ) -> None:
        super().__init__(message)
        self.field = field
        self.value = value
        self.legal = tuple(legal)


class LayoutError(ConfigError):
    """A size, or a combination of sizes, that no world of ranks can have."""


class CheckpointError(WeftError):
    """A checkpoint that cannot be served; `problems` lists all that was found, not only the first. The message shows
    MOST_PROBLEMS of them, a line each, without control characters of the files."""

    exit_code = 65

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        self.problems = tuple(printable(problem) for problem in problems)
        lines = self.problems[:MOST_PROBLEMS]
        more = len(self.problems) - len(lines)
        super().__init__("\n  ".join((printable(message), *lines, *([f"and {more} more"] if more else []))))


class FieldError(CheckpointError, ConfigError):
    """A field of a model's files has a value that it cannot have."""

    def __init__(
        self, message: str, *, field: str | None = None, value: object = None, legal: Sequence[object] = ()
    ) -> None:
        CheckpointError.__init__(self, message)
        self.field, self.value, self.legal = field, value, tuple(legal)


class PeerError(WeftError):
    """A rank died or stopped answering; the message names it, `death` is the cause."""

    exit_code = 69
    death = Death.LINK
    module = ""
    """Whose collective failed, as a layout's boundaries are called ("o_proj.out"); empty: of none."""


class MismatchError(PeerError):
    """Ranks called different collectives, or brought tensors that do not fit; the message has every call."""

    death = Death.EXCEPTION


class HostLostError(PeerError):
    """Another host, with all of its ranks, is lost; the message names it."""

    death = Death.HOST


class HostMissingError(HostLostError):
    """Hosts that were waited for have not come."""


class DeadlockError(PeerError):
    """No rank can go on; the message names each waiting rank and its collective."""


class UnavailableError(WeftError):
    """A server or a model hub cannot be reached, or answers that it cannot serve; the message names it."""

    exit_code = 69


class RequestError(WeftError):
    """One request is at fault; `param` is the field, `status` the HTTP status, `code` OpenAI's word for the fault."""

    exit_code = 2

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.status = status
        self.code = code
