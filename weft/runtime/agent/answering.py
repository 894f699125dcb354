"""Answering: a Unix socket on which an agent says how it is: one JSON object a connection."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from weft.base.errors import ConfigError

SEND_S = 2.0


class Answering:
    """Listens at `path`, for this user alone, in place of a socket that an ended agent left.
    ConfigError: it cannot."""

    def __init__(self, path: str, state: Callable[[], Mapping[str, object]]) -> None:
        self._path, self._state = path, state
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    os.unlink(path)
            self._sock.bind(path)
            os.chmod(path, 0o600)
            self._sock.listen()
        except OSError as error:
            self._sock.close()
            message = f"agent_socket {path}: {error.strerror or error}"  # a path that is too long has no errno
            raise ConfigError(message, field="agent_socket", value=path) from error
        self._inode = os.stat(path).st_ino
        threading.Thread(target=self._run, name="answering", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._sock.accept()
            except OSError:  # closed
                return
            with connection, suppress(OSError):
                connection.settimeout(SEND_S)
                connection.sendall(json.dumps(self._state()).encode() + b"\n")

    def close(self) -> None:
        """Removes the socket, if it is still this one."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        with suppress(OSError):
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)
