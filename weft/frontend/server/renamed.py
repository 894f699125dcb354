"""Errors of chats in the words of an API that has other names for their fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

from weft.base.errors import RequestError


@contextmanager
def naming(names: Mapping[str, str]) -> Iterator[None]:
    """Errors that are raised meanwhile, renamed."""
    try:
        yield
    except RequestError as error:
        raise renamed(error, names) from error


def renamed(error: RequestError, names: Mapping[str, str]) -> RequestError:
    """`names`: a chat's field, as in `tools[].function`, to what the API calls it. The longest that fits is taken."""
    if error.param is None:
        return error
    for old, new in names.items():
        if found := _pattern(old).match(error.param):
            param = _put(new, found) + error.param[found.end() :]
            start = re.match(rf"'?{re.escape(error.param)}\b", str(error))
            message = str(error) if start is None else str(error).replace(error.param, param, 1)
            for other, own in names.items():
                message = message.replace(f"'{other}'", f"'{own}'")
            return RequestError(message, param=param, status=error.status, code=error.code)
    return error


@cache
def _pattern(field: str) -> re.Pattern[str]:
    return re.compile(re.escape(field).replace(re.escape("[]"), r"\[(\d+)\]") + r"(?![a-z_])")


def _put(new: str, found: re.Match[str]) -> str:
    for index in found.groups():
        new = new.replace("[]", f"[{index}]", 1)
    return new
