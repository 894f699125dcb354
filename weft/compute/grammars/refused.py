"""What the grammar library does not take of a schema: found by trying its parts, each keyword alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from weft.compute.grammars.json_schema import HeldSchema, escaped, inside, keywords_at, left_out, not_held, wrong

Refused = Callable[[Any], str | None]
"""Why a schema does not compile; None: it does."""
_DEFINITIONS = ("$defs", "definitions")
_FIRST = ("pattern", "patternProperties", "multipleOf", "minProperties", "maxProperties", "format")
_LAST = ("$ref", "type", "properties")
_UNMET = "unsatisfiable"
_REASONS = (
    (_UNMET, "no document meets it"),
    ("look-around", "it is no regular expression that a grammar can hold: there is no look-around"),
    ("backreference", "it is no regular expression that a grammar can hold: there is no reference back"),
    ("min/maxproperties", "it is held only where all of the object's properties are required"),
    ("circular", "a reference that leads to itself has nothing beside it in a grammar"),
)
"""By a word of the library's reason."""


def without_refused(held: HeldSchema, refused: Refused, param: str, strict: bool) -> HeldSchema:
    """A schema that compiles, of one that does not. RequestError: `strict`, or no keyword is the reason."""
    search = _Search(held, refused, param, strict)
    for word in _DEFINITIONS:  # what others refer to comes first: else each of them would be blamed
        for name, schema in (held.schema.get(word) or {}).items() if isinstance(held.schema, dict) else ():
            search.mend(schema, f"/{word}/{escaped(name)}")
    search.mend(held.schema, "")
    if (why := refused(held.schema)) is not None:
        raise wrong(param, "", reason_of(why))
    return held


def reason_of(why: str) -> str:
    """The library's reason in own words, where it is a known one."""
    known = next((own for word, own in _REASONS if word in why.lower()), None)
    if known is None and "regex parse error" in why:
        return f"it is no regular expression: {why.rpartition('error: ')[2]}"
    return known or why


class _Search:
    def __init__(self, held: HeldSchema, refused: Refused, param: str, strict: bool) -> None:
        self._held, self._refused, self._param, self._strict = held, refused, param, strict

    def mend(self, schema: Any, path: str) -> None:
        """Takes out of a schema inside the whole what does not compile."""
        if not isinstance(schema, dict) or (why := self._why(schema)) is None:
            return
        if _UNMET in why.lower():
            if path:  # of a property that may be left out, it is no fault
                return
            raise wrong(self._param, self._unmet(schema, path), reason_of(why))
        for at, inner in _schemas_in(schema, path):
            if not at.startswith(tuple(f"{path}/{word}/" for word in _DEFINITIONS)):
                self.mend(inner, at)
        while (why := self._why(schema)) is not None:
            keyword = self._culprit(schema)
            if keyword is None or _UNMET in why.lower():
                raise wrong(self._param, self._unmet(schema, path), reason_of(why))
            if self._strict:
                raise not_held(self._param, keyword, path, reason_of(why))
            del schema[keyword]
            self._held.left_out.append(left_out(keyword, path))

    def _unmet(self, schema: dict[str, Any], path: str) -> str:
        """Where a schema that no document meets says so."""
        required = schema.get("required", ())
        for at, inner in _schemas_in(schema, path):
            name = at.removeprefix(f"{path}/properties/")
            needed = name == at or name.replace("~1", "/").replace("~0", "~") in required
            if isinstance(inner, dict) and needed and _UNMET in (self._why(inner) or "").lower():
                return self._unmet(inner, at)
        return path

    def _culprit(self, schema: dict[str, Any]) -> str | None:
        """A keyword without which the schema compiles, else the first that may be the reason."""
        first = [word for word in _FIRST if word in schema]
        others = [word for word in schema if word not in (*_FIRST, *_LAST, *_DEFINITIONS)]
        last = [word for word in _LAST if word in schema]
        for words in ([*first, *others], first[:1], last):  # two of the first may be the reason together
            for word in words:
                if words == first[:1] or self._why({key: schema[key] for key in schema if key != word}) is None:
                    return word
        return None

    def _why(self, schema: dict[str, Any]) -> str | None:
        """As a schema of its own, with the definitions of the whole."""
        whole = self._held.schema
        if schema is whole or not any(keywords_at(schema, "$ref")):
            return self._refused(schema)
        defined = {word: whole[word] for word in _DEFINITIONS if word in whole}
        if all(
            str(inner["$ref"]).startswith(tuple(f"#/{word}/" for word in defined))
            for _, inner in keywords_at(schema, "$ref")
        ):
            return self._refused({**schema, **defined})
        return None  # the whole decides


def _schemas_in(schema: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, value in [*schema.items()]:
        yield from inside(name, value, f"{path}/{escaped(name)}")
