"""SGLang: its launch command read into a layout and written from one.

--tp is the ranks of a pipeline stage. Under --enable-dp-attention attention's tp is tp / (dp * cp), without it dp
makes replicas. Any all-to-all back end but `none` makes ep = tp.
"""

from __future__ import annotations

from collections.abc import Mapping

from weft.parallel.layout import Layout
from weft.tools.dialects.base import MENTIONED, Context, Dialect, Document, Draft, Reading, Written
from weft.tools.dialects.expert_options import balancing_parts, carry_placement
from weft.tools.dialects.reading import arguments_of, finish, known_share, read_command, take_model, take_options
from weft.tools.dialects.sglang.flags import DEFAULTS, NAMES, OFF, OWN_FLAGS, PROGRAMS, TABLE
from weft.tools.dialects.sglang.sizes import derive_sizes
from weft.tools.dialects.writing import MODEL, checked, command, context_for, engine_parts, experts_for


class SGLang:
    """SGLang's launch_server, the router's launch_server and `sglang serve`."""

    name = "sglang"
    title = "SGLang"
    programs = PROGRAMS

    def recognizes(self, text: str) -> float:
        """Arguments by the flags that are SGLang's own."""
        return MENTIONED if "sglang" in text.lower() else known_share(text, TABLE, OWN_FLAGS)

    def read(self, document: Document, context: Context) -> list[Reading]:
        """One engine per command."""
        draft = Draft(self.name, document, context)
        arguments = arguments_of(document, draft, TABLE, self.title)
        take_options(arguments, draft, DEFAULTS)
        take_model(arguments, draft)
        if draft.options.pop("disable_radix_cache", False):
            draft.options["enable_prefix_caching"] = False
        carry_placement(draft, arguments)
        sizes = derive_sizes(arguments, draft)
        return [finish(draft, sizes, arguments.text("disaggregation_mode"))]

    def write(self, layout: Layout, options: Mapping[str, object], source: str = "") -> Written:
        """`python -m sglang.launch_server ...`, one flag a line."""
        parts, notes = engine_parts(options, NAMES, OFF, TABLE if source == self.name else None)
        sizes, environment = _parts(layout, options)
        head: list[tuple[str, object]] = [("--model-path", options.get("model", MODEL))]
        text = command("python -m sglang.launch_server", head + sizes + parts, environment)
        return checked(layout, text, read_command(text, DIALECT, context_for(layout, options)), notes)


def _parts(layout: Layout, options: Mapping[str, object]) -> tuple[list[tuple[str, object]], dict[str, object]]:
    """The size flags that say most of a layout; what they cannot say is found by reading them back."""
    attention = layout.attention
    parts: list[tuple[str, object]] = [("--tp", layout.stage_size)]
    dp_attention = attention.dp > 1
    if dp_attention:
        parts += [("--dp", attention.dp), ("--enable-dp-attention", None)]
    elif layout.replicas > 1:
        parts.append(("--dp", layout.replicas))
    if dp_attention and layout.lm_head.tp == attention.tp:
        parts.append(("--enable-dp-lm-head", None))
    for flag, size in (
        ("--attn-cp-size", attention.cp),
        ("--dcp-size", attention.kv_split),
        ("--pp", layout.pipeline.stages),
    ):
        parts += [(flag, size)] if size > 1 else []
    if layout.dense.tp == 1 and layout.stage_size > 1:
        parts.append(("--moe-dense-tp-size", 1))
    parts += _expert_parts(layout, options)
    if layout.nodes > 1:
        parts += [("--nnodes", layout.nodes), ("--node-rank", 0)]
        parts += [] if options.get("dist_init_addr") else [("--dist-init-addr", "<node0-address>:5000")]
    layers = layout.pipeline.layers
    return parts, {"SGLANG_PP_LAYER_PARTITION": ",".join(map(str, layers))} if layers else {}


def _expert_parts(layout: Layout, options: Mapping[str, object]) -> list[tuple[str, object]]:
    experts = layout.experts
    if experts is None:
        return []
    stage = layout.stage_size
    parts: list[tuple[str, object]] = []
    if experts.ep > 1:
        parts.append(("--ep", experts.ep))
    copies = stage // (experts.tp * experts.ep)
    if copies > 1:
        parts.append(("--moe-dp-size", copies))
    if experts.dispatch == "all_to_all":
        parts.append(("--moe-a2a-backend", "deepep"))
    elif experts.dispatch == "all_gather":
        parts.append(("--moe-a2a-backend", "none"))
    return parts + balancing_parts(layout, experts_for(layout, options))


DIALECT: Dialect = SGLang()
