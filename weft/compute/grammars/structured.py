"""`StructuredOutputs` as a constraint."""

from __future__ import annotations

from weft.base.errors import RequestError
from weft.base.step.structured_outputs import StructuredOutputs
from weft.compute.grammars.constraints import KINDS, Constraint

_JSON = ("json", "json_object", "structural_tag")
_ABOUT = {
    "whitespace_pattern": _JSON,
    "disable_any_whitespace": _JSON,
    "disable_additional_properties": ("json", "structural_tag"),
}
"""Fields that say how something is to be, and the kinds that they go with."""


def constraint_of_outputs(given: StructuredOutputs, param: str = "structured_outputs") -> Constraint:
    """RequestError: it says nothing, two things, or how something is to be that it does not ask for."""
    found = [kind for kind in KINDS if getattr(given, kind) not in (None, False)]
    if len(found) != 1:
        shown = " and ".join(found) or "nothing"
        raise _refused(param, f"'{param}' has {shown}; legal: one of {', '.join(KINDS)}")
    kind = found[0]
    if given.whitespace_pattern is not None and given.disable_any_whitespace:
        raise _refused(param, "'whitespace_pattern' and 'disable_any_whitespace' exclude each other; give one of them")
    useless = next((name for name, kinds in _ABOUT.items() if getattr(given, name) and kind not in kinds), None)
    if useless is not None:
        legal = ", ".join(_ABOUT[useless])
        raise _refused(f"{param}.{useless}", f"'{param}.{useless}' does not go with '{kind}'; it goes with: {legal}")
    return Constraint(
        kind=kind,
        value=None if kind == "json_object" else getattr(given, kind),
        param=f"{param}.{kind}",
        space="" if given.disable_any_whitespace else given.whitespace_pattern,
        space_param=f"{param}.whitespace_pattern",
        closed=given.disable_additional_properties,
    )


def _refused(param: str, message: str) -> RequestError:
    return RequestError(message, param=param, code="invalid_value")
