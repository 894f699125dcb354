"""The pictures of the documents as SVG: the layout of `layouts/four-ranks.yaml` as `weft explain --svg` draws it, one
layer of it with its transitions, the processes of a server, and a roofline. `python -m scripts.generated` writes them
to docs/pictures/."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path

from scripts.drawing import arrow, box, svg, text
from scripts.roofline import roofline
from weft.cli.main import main as weft
from weft.parallel.layout.boundaries import dense_boundaries, module_placements
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.resolve import resolve
from weft.parallel.layout.serialize import load_given
from weft.parallel.layout.splits import even_splits
from weft.parallel.layout.transition import Step
from weft.tools.explain.svg import COLOURS

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
LAYOUT = ROOT / "layouts" / "four-ranks.yaml"
SMALL_MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
"""The sizes of the embedded model, for what only needs its config."""
HEAD_DIM = 64
REASONS = {
    "all_gather": "each rank gets all rows of its block",
    "all_to_all": "each rank gets the columns that its weights need",
    "reduce_scatter": "addends are summed; each rank keeps its own rows",
    "all_reduce": "addends are summed; each rank gets the sum",
    "slice": "each rank keeps a part of what it has",
}
"""Kind of a step -> why it is there."""
LEFT, CELL, HEIGHT = 170, 144, 34


def explain_words(folder: Path) -> list[str]:
    """`weft explain` of the embedded model's sizes under LAYOUT, the same on any CPU; writes the config to `folder`."""
    model = folder / "SmolLM2-135M-Instruct.Q4_1"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(SMALL_MODEL))
    words = ["explain", str(model), "--layout", str(LAYOUT), "--dtype", "bfloat16"]
    return [*words, "--no-compress-weights"]


def four_ranks() -> str:
    """The picture of the whole layout."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        weft([*explain_words(Path(folder)), "--svg", str(Path(folder) / "a.svg")])
        return (Path(folder) / "a.svg").read_text()


def one_layer() -> str:
    """A layer of LAYOUT from top to bottom: modules as a row of ranks, transitions between them."""
    layout = resolve(load_given(LAYOUT))
    placed = module_placements(layout, heads=9, kv_heads=3, head_dim=HEAD_DIM, vocab=49152)
    boundaries = dense_boundaries(layout, hidden=576, heads=9, kv_heads=3, head_dim=HEAD_DIM, vocab=49152)
    heads = [f"heads {lo // HEAD_DIM}:{hi // HEAD_DIM}" for lo, hi in placed["attention"].gives.cuts]
    columns = [f"columns {lo}:{hi}" for lo, hi in placed["o_proj"].takes.cuts]
    parts = [f"columns {lo}:{hi}" for lo, hi in even_splits(1536, layout.dense.tp)]
    modules = {"attention": heads, "o_proj": columns, "dense": parts}
    body, y = [text(16, 28, "one layer of layouts/four-ranks.yaml, from top to bottom", "t")], 44
    body += [text(LEFT + CELL * r + CELL // 2, y + 12, f"rank {r}", "b", "middle") for r in range(layout.stage_size)]
    y = row(body, y + 20, "residual stream", "norm", ["own rows"] * layout.stage_size)
    for name, boundary in boundaries.items():
        module, _, side = name.partition(".")
        if module not in modules:
            continue
        y = moved(body, y, layout, f"{boundary.src} \N{RIGHTWARDS ARROW} {boundary.dst}", boundary.steps)
        if side == "in":
            y = row(body, y, module, module, modules[module] * (layout.stage_size // len(modules[module])))
        else:
            y = row(body, y, "residual stream", "norm", ["own rows + result"] * layout.stage_size)
    return svg("one layer under four ranks", LEFT + CELL * layout.stage_size + 20, y + 16, body)


def row(body: list[str], y: int, name: str, colour: str, cells: list[str]) -> int:
    """Adds a row of cells, one for each rank; gives where the next begins."""
    body.append(text(16, y + HEIGHT // 2 + 4, name, "b"))
    for rank, cell in enumerate(cells):
        body += box(LEFT + rank * CELL + 4, y, CELL - 8, HEIGHT, COLOURS[colour], (cell,))
    return y + HEIGHT


def moved(body: list[str], y: int, layout: Layout, between: str, steps: tuple[Step, ...]) -> int:
    """Adds a transition: its collectives with their ranks and reasons, and an arrow where something moves."""
    body.append(text(16, y + 24, between, "s"))
    if not steps:
        body.append(text(LEFT + 24, y + 24, "nothing moves", "s"))
    for step in steps:
        groups = " ".join("{" + " ".join(map(str, group)) + "}" for group in step.groups(layout.stage_size))
        body += [arrow(LEFT + 10, y + 4, LEFT + 10, y + 36), text(LEFT + 24, y + 18, f"{step.kind} in {groups}")]
        body.append(text(LEFT + 24, y + 33, REASONS[step.kind], "s"))
        y += 40
    return y if steps else y + 40


def processes() -> str:
    """The processes of `weft serve` with two ranks, and what goes between them."""
    body = [text(16, 28, "weft serve with two ranks (without the text worker)", "t")]
    body += box(290, 44, 160, 36, "#bab0ac", ("client",))
    body += [arrow(350, 80, 350, 118), text(340, 104, "HTTP request", "s", "end")]
    body += [arrow(390, 118, 390, 80), text(400, 104, "tokens as text", "s")]
    body.append('<rect x="40" y="120" width="660" height="110" rx="6" fill="none" stroke="#444"/>')
    body.append(text(52, 138, "process 1: the server (no torch)", "b"))
    body += box(56, 150, 190, 66, COLOURS["embedding"], ("front end", "HTTP, checks, tokenizer", "router of replicas"))
    body += box(276, 150, 190, 66, COLOURS["attention"], ("engine thread", "scheduler, KV blocks", "prefix cache"))
    body += box(496, 150, 190, 66, COLOURS["shared_experts"], ("supervisor", "starts and watches ranks", "sends steps"))
    body += [arrow(246, 176, 276, 176), arrow(276, 196, 246, 196), arrow(466, 176, 496, 176), arrow(496, 196, 466, 196)]
    for rank, x in enumerate((40, 430)):
        body += [arrow(x + 110, 230, x + 110, 288), arrow(x + 160, 288, x + 160, 230)]
        body += [text(x + 102, 262, "step plan", "s", "end"), text(x + 168, 262, "token ids", "s")]
        lines = (f"process {rank + 2}: rank {rank}", "its part of the weights", "its KV cache", "decoder and sampling")
        body += box(x, 290, 270, 84, COLOURS["dense"], lines)
    body += [arrow(310, 326, 430, 326), arrow(430, 344, 310, 344)]
    body += [text(370, 318, "collectives", "", "middle"), text(370, 362, "shared memory", "s", "middle")]
    return svg("the processes of weft serve", 740, 394, body)


MADE = {
    "four-ranks.svg": four_ranks,
    "layer.svg": one_layer,
    "processes.svg": processes,
    "roofline.svg": roofline,
}
"""File in PICTURES -> what makes it."""
