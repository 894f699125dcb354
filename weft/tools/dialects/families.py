"""Models by their names: dense or mixture of experts, and how many experts. The rows stand in `families.toml`.

Only for reading commands that name a model without its config.json; a config always wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from weft.base.data_files import read_toml
from weft.tools.dialects.base import Draft
from weft.tools.dialects.sizes import whole_number


@dataclass(frozen=True, slots=True)
class Family:
    """Routed experts of a model: 0 dense, None a mixture of unknown size."""

    name: str
    experts: int | None

    @property
    def moe(self) -> bool:
        """Whether it has routed experts."""
        return self.experts != 0


DENSE = "dense"
"""Name of the families of makers most of whose models are dense."""


class _Row(msgspec.Struct, frozen=True):
    """A pattern of names, and what models with such a name are."""

    name: str
    pattern: str
    experts: int | None = None


_ROWS = read_toml("weft.tools.dialects", "families.toml", dict[str, tuple[_Row, ...]])["families"]
_COMPILED = tuple((re.compile(row.pattern), row.name, row.experts) for row in _ROWS)


def family(model: str) -> Family | None:
    """The family that a model's name or path belongs to; None when nothing is known about it."""
    text = model.lower().rstrip("/")
    for part in (text.rsplit("/", 1)[-1], text):
        for pattern, name, experts in _COMPILED:
            if pattern.search(part):
                count = re.search(r"\b(\d+)x\d", part) if experts is None else None
                return Family(name, int(count[1]) if count else experts)
    return None


def experts_of(model: str, signs: str, draft: Draft) -> tuple[bool, int | None]:
    """(mixture of experts?, number of experts or None). `signs` names what in the text asks for experts, if anything.

    A config's number wins over the name; without either the text's own signs decide, and a note says so.
    """
    known = draft.context.experts
    if known is not None:
        return known > 0, known or None
    stated = draft.context.settings.get("experts", "")
    if (count := whole_number(stated)) is not None:
        return count > 0, count or None
    found = family(model) or _served(draft)
    if found is not None and found.name == DENSE and signs:
        found = None  # a maker's name alone; what only a mixture has says more
    if found is not None and (found.experts or not found.moe):
        return found.moe, found.experts or None
    if found is not None or signs:
        reason = f"{model} is a mixture of experts" if found else f"{signs} asks for a mixture of experts"
        message = (
            f"{reason}; its number of experts is not known from the name (--set experts=N gives it), "
            "slots that follow from it stay open"
        )
        draft.note("info", "experts-unknown", message)
        return True, None
    shown = f"the model {model}" if model else "the model"
    message = f"{shown} is not known by its name; read as dense (--set experts=N for a mixture of experts)"
    draft.note("info", "model-unknown", message)
    return False, None


def _served(draft: Draft) -> Family | None:
    """The family by the name it is served under, where the path has no known name."""
    name = draft.options.get("served_model_name")
    found = family(name) if isinstance(name, str) else None
    if found is not None:
        draft.note(
            "info", "model-served", f"the model was taken for {found.name} by the name it is served under, {name}"
        )
    return found
