"""Commands of several nodes compared with each other: one deployment is one reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from weft.tools.dialects.base import OPEN_NODE, Diagnostic, Reading, Refusal

_OWN = frozenset(
    (
        *("node_rank", "host", "port", "base_gpu_id", "data_parallel_rank", "data_parallel_start_rank", "headless"),
        *("data_parallel_size_local", "data_parallel_rpc_port", "api_server_count", "log_level", "nccl_port"),
        *("device_ids", "served_model_name"),
    )
)
"""Options that may differ from node to node."""
_ADDRESSES = ("dist_init_addr", "master_addr", "data_parallel_address")


def compare_nodes(readings: Sequence[Reading]) -> list[Reading]:
    """Readings in order, those of the nodes of one deployment joined into the first of them."""
    result: list[Reading] = []
    groups: list[list[Reading]] = []
    for reading in readings:
        group = _group_of(reading, groups)
        if group is None:
            groups.append([reading])
        else:
            group.append(reading)
    for group in groups:
        result.append(group[0] if len(group) == 1 else _joined(group))
    return result


def _group_of(reading: Reading, groups: list[list[Reading]]) -> list[Reading] | None:
    """The last group, when this is a further node of the same deployment."""
    if reading.node is None or not groups:
        return None
    last = groups[-1]
    first = last[0]
    same = first.dialect == reading.dialect and first.role == reading.role and first.node is not None
    model = first.options.get("model") == reading.options.get("model")
    further = reading.node not in {each.node for each in last}
    if OPEN_NODE in (reading.node, first.node):  # a leader and its workers, the rank of a node from a variable
        further = _sizes(first) == _sizes(reading) or _address(reading) == _address(first) != ""
    return last if same and model and further else None


def _address(reading: Reading) -> str:
    return next((str(reading.options[name]) for name in _ADDRESSES if reading.options.get(name)), "")


def _joined(group: Sequence[Reading]) -> Reading:
    first = group[0]
    shown = ", ".join(_shown(each) for each in group)
    notes = list(first.notes)
    refused = next((each.refused for each in group if each.refused), None)
    differences = [text for other in group[1:] for text in _differences(_sizes(first), _sizes(other), first, other)]
    if differences and refused is None:
        places = ", ".join(f"node {_shown(each)} in line {each.place.line}" for each in group if each.place)
        shown_places = f" ({places})" if places else ""
        message = f"the nodes' commands{shown_places} are of different worlds: {'; '.join(differences)}"
        refused = Refusal(message)
        notes.append(Diagnostic("error", "refused", message, group[-1].place))
    for other in group[1:]:
        ours = {name: value for name, value in first.options.items() if name not in _OWN}
        theirs = {name: value for name, value in other.options.items() if name not in _OWN}
        for text in _differences(ours, theirs, first, other):
            notes.append(Diagnostic("warning", "nodes-differ", f"every node must be started alike: {text}"))
        notes += [note for note in other.notes if note.level != "info" and not _is_known(note, notes)]
    if refused is None:
        notes.append(Diagnostic("info", "nodes", f"the commands of nodes {shown} describe one deployment"))
    variables = tuple(dict.fromkeys(name for each in group for name in each.variables))
    layout = first.layout if refused is None else None
    return replace(first, layout=layout, notes=tuple(notes), refused=refused, variables=variables)


def _is_known(note: Diagnostic, notes: Sequence[Diagnostic]) -> bool:
    return any(other.code == note.code and other.message == note.message for other in notes)


def _sizes(reading: Reading) -> Mapping[str, object]:
    return {"world": reading.sizes.world, **reading.sizes.given()} if reading.sizes else {}


def _differences(ours: Mapping[str, object], theirs: Mapping[str, object], a: Reading, b: Reading) -> list[str]:
    if not ours or not theirs:
        return []
    names = [
        name for name in (*ours, *(name for name in theirs if name not in ours)) if ours.get(name) != theirs.get(name)
    ]
    return [
        f"{name} is {ours.get(name)} on node {_shown(a)} but {theirs.get(name)} on node {_shown(b)}" for name in names
    ]


def _shown(reading: Reading) -> str:
    """The rank of its node, or what the text calls it."""
    return str(reading.node) if reading.node != OPEN_NODE else f"{reading.name or 'of a variable'}"
