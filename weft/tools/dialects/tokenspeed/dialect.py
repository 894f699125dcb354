"""TokenSpeed: `tokenspeed serve` read into a layout and written from one.

Three factorizations of a stage's ranks: attention tp x cp x dp, dense tp x dp, experts tp x ep x dp. One missing
factor is the quotient, further missing ones are 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from weft.parallel.layout import Layout
from weft.tools.dialects.base import MENTIONED, Context, Dialect, Document, Draft, Reading, Written
from weft.tools.dialects.expert_options import balancing_parts, carry_placement
from weft.tools.dialects.reading import arguments_of, finish, known_share, read_command, take_model, take_options
from weft.tools.dialects.tokenspeed.flags import DEFAULTS, NAMES, OFF, OWN_FLAGS, PROGRAMS, TABLE
from weft.tools.dialects.tokenspeed.sizes import derive_sizes
from weft.tools.dialects.writing import MODEL, checked, command, context_for, engine_parts, experts_for


class TokenSpeed:
    """TokenSpeed's serve command."""

    name = "tokenspeed"
    title = "TokenSpeed"
    programs = PROGRAMS

    def recognizes(self, text: str) -> float:
        """Arguments by the flags that are TokenSpeed's own."""
        return MENTIONED if "tokenspeed" in text.lower() else known_share(text, TABLE, OWN_FLAGS)

    def read(self, document: Document, context: Context) -> list[Reading]:
        """One engine per command."""
        draft = Draft(self.name, document, context)
        arguments = arguments_of(document, draft, TABLE, self.title)
        take_options(arguments, draft, DEFAULTS)
        take_model(arguments, draft)
        if draft.options.pop("disable_radix_cache", False) or draft.options.pop("disable_prefix_caching", False):
            draft.options["enable_prefix_caching"] = False
        carry_placement(draft, arguments)
        sizes = derive_sizes(arguments, draft)
        return [finish(draft, sizes, arguments.text("disaggregation_mode"))]

    def write(self, layout: Layout, options: Mapping[str, object], source: str = "") -> Written:
        """`tokenspeed serve MODEL ...`, one flag a line."""
        parts, notes = engine_parts(options, NAMES, OFF, TABLE if source == self.name else None)
        sizes, environment = _parts(layout, options)
        text = command(f"tokenspeed serve {options.get('model', MODEL)}", sizes + parts, environment)
        return checked(layout, text, read_command(text, DIALECT, context_for(layout, options)), notes)


def _parts(layout: Layout, options: Mapping[str, object]) -> tuple[list[tuple[str, object]], dict[str, object]]:
    """The size flags that say most of a layout; what they cannot say is found by reading them back."""
    attention, experts = layout.attention, layout.experts
    parts: list[tuple[str, object]] = [
        ("--world-size", layout.stage_size * layout.pipeline.stages),
        ("--attn-tp-size", attention.tp * attention.cp),
        ("--dense-tp-size", layout.dense.tp),
    ]
    if attention.dp > 1:
        parts.append(("--data-parallel-size", attention.dp))
    if layout.pipeline.stages > 1:
        parts.append(("--pipeline-parallel-size", layout.pipeline.stages))
    if layout.pipeline.layers:
        parts.append(("--pp-layer-partition", ",".join(map(str, layout.pipeline.layers))))
    if attention.kv_split > 1:
        parts.append(("--decode-context-parallel-size", attention.kv_split))
    if layout.lm_head.tp != (attention.tp if attention.dp == 1 else 1):
        parts.append(("--lm-head-tp-size", layout.lm_head.tp))
    if experts is not None:
        parts += [("--moe-tp-size", experts.tp), ("--expert-parallel-size", experts.ep)]
        parts += _dispatch_parts(layout, options)
    if layout.nodes > 1:
        parts += [("--nnodes", layout.nodes), ("--node-rank", 0)]
    if (layout.nodes > 1 or attention.dp > 1) and not options.get("dist_init_addr"):
        parts.append(("--dist-init-addr", "<node0-address>:25000"))
    return parts, {"ENABLE_CP": 1} if attention.cp > 1 else {}


def _dispatch_parts(layout: Layout, options: Mapping[str, object]) -> list[tuple[str, object]]:
    experts = layout.experts
    assert experts is not None
    parts: list[tuple[str, object]] = []
    backend = {"all_to_all": "deepep", "all_gather": "none"}.get(experts.dispatch)
    parts += [("--all2all-backend", backend)] if backend else []
    return parts + balancing_parts(layout, experts_for(layout, options))


DIALECT: Dialect = TokenSpeed()
