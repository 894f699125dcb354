"""vLLM and vLLM-Ascend: `vllm serve` read into a layout and written from one.

A mixture of experts couples its dp ranks, experts over tp x dp x pcp; the dp ranks of a dense model are replicas.
dcp splits the KV cache inside tp. vLLM-Ascend's module sizes are in `modules`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from weft.parallel.layout import Layout
from weft.tools.dialects.base import MENTIONED, Context, Dialect, Document, Draft, Reading, Where, Word, Written
from weft.tools.dialects.reading import arguments_of, finish, known_share, read_command, take_model, take_options
from weft.tools.dialects.sizes import quotient
from weft.tools.dialects.vllm.flags import DEFAULTS, MODULE_CONFIG, NAMES, OFF, OWN_FLAGS, PROGRAMS, TABLE
from weft.tools.dialects.vllm.modules import module_parts
from weft.tools.dialects.vllm.sizes import derive_sizes
from weft.tools.dialects.writing import MODEL, checked, command, context_for, engine_parts, experts_for

_BINDING = "VLLM_CPU_OMP_THREADS_BIND"
_OWN_KEY = re.compile(
    r"(?m)^[ \t]*[\"']?(?:gpu[-_]memory[-_]utilization|enable[-_]expert[-_]parallel|data[-_]parallel[-_]size[-_]local)"
    r"[\"']?[ \t]*:"
)
"""A key that other engines' files do not have."""


class VLLM:
    """vLLM's serve command and its API server modules."""

    name = "vllm"
    title = "vLLM"
    programs = PROGRAMS

    def recognizes(self, text: str) -> float:
        """Arguments by the flags that are vLLM's own."""
        certain = "vllm" in text.lower() or "finegrained_tp_config" in text
        if not certain and _OWN_KEY.search(text):
            return 0.6
        return MENTIONED if certain else known_share(text, TABLE, OWN_FLAGS)

    def read(self, document: Document, context: Context) -> list[Reading]:
        """One engine per command."""
        document = _additional(document)
        draft = Draft(self.name, document, context)
        arguments = arguments_of(document, draft, TABLE, self.title)
        take_options(arguments, draft, DEFAULTS)
        _served(draft)
        _bound(draft)
        take_model(arguments, draft)
        sizes = derive_sizes(arguments, draft)
        role = str(arguments.mapping("kv_transfer_config").get("kv_role", ""))
        roles = {"kv_producer": "prefill", "kv_consumer": "decode"}
        return [finish(draft, sizes, roles.get(role, ""))]

    def write(self, layout: Layout, options: Mapping[str, object], source: str = "") -> Written:
        """`vllm serve MODEL ...`, one flag a line."""
        flagged = {name: value for name, value in options.items() if name != "cpus"}
        parts, notes = engine_parts(flagged, NAMES, OFF, TABLE if source == self.name else None)
        sizes, environment = _parts(layout, options)
        environment |= {_BINDING: options["cpus"]} if "cpus" in options else {}
        text = command(f"vllm serve {options.get('model', MODEL)}", sizes + parts, environment)
        return checked(layout, text, read_command(text, DIALECT, context_for(layout, options)), notes)


def _additional(document: Document) -> Document:
    """The value of --additional-config, shown without the flag, as that flag."""
    if document.kind != "file" or not document.text.lstrip().startswith("{") or MODULE_CONFIG not in document.text:
        return document
    where = Where(document.line, 1, "--additional-config")
    words = (Word("--additional-config", where), Word(document.text.strip(), where, quoted=True))
    return replace(document, kind="command", words=words)


def _served(draft: Draft) -> None:
    """The first of the names it is served under; all of them where there are more."""
    names = draft.options.get("served_model_name")
    if isinstance(names, list) and len(names) == 1:
        draft.options["served_model_name"] = names[0]


def _bound(draft: Draft) -> None:
    """CPUs of each rank, where the environment lists them."""
    word = draft.document.environment.get(_BINDING)
    if word is None or word.text in ("", "auto"):
        return
    if word.text == "nobind":
        draft.note("warning", "approximation", f"{_BINDING}=nobind: read as if it were not there", word.where)
        return
    draft.options["cpus"] = word.text
    if word.variables:
        draft.note("info", "open-option", f"{_BINDING} depends on {', '.join(word.variables)}", word.where)


def _parts(layout: Layout, options: Mapping[str, object]) -> tuple[list[tuple[str, object]], dict[str, object]]:
    """The size flags that say most of a layout; what they cannot say is found by reading them back."""
    attention = layout.attention
    dp = attention.dp if attention.dp > 1 else layout.replicas
    parts: list[tuple[str, object]] = [("--tensor-parallel-size", attention.tp)]
    for flag, size in (
        ("--data-parallel-size", dp),
        ("--pipeline-parallel-size", layout.pipeline.stages),
        ("--prefill-context-parallel-size", attention.cp),
        ("--decode-context-parallel-size", attention.kv_split),
    ):
        parts += [(flag, size)] if size > 1 else []
    parts += _expert_parts(layout, options)
    parts += module_parts(layout)
    parts += [("--nnodes", layout.nodes), ("--node-rank", 0)] if layout.nodes > 1 else []
    layers = layout.pipeline.layers
    return parts, {"VLLM_PP_LAYER_PARTITION": ",".join(map(str, layers))} if layers else {}


def _expert_parts(layout: Layout, options: Mapping[str, object]) -> list[tuple[str, object]]:
    experts = layout.experts
    if experts is None:
        return []
    parts: list[tuple[str, object]] = []
    if quotient(layout.stage_size, experts.ep) == 1 and experts.tp == 1:
        parts.append(("--enable-expert-parallel", None))
    backend = {"all_to_all": "deepep_low_latency", "all_gather": "allgather_reducescatter"}.get(experts.dispatch)
    parts += [("--all2all-backend", backend)] if backend else []
    redundant = experts.slots - experts_for(layout, options)
    if experts.balance.policy != "none":
        parts += [("--enable-eplb", None), ("--eplb-config.step_interval", experts.balance.interval)]
    if redundant > 0:
        parts.append(("--eplb-config.num_redundant_experts", redundant))
    return parts


DIALECT: Dialect = VLLM()
