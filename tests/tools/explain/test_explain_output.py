"""What `weft explain` prints: bars, the JSON's schema, widths, and that torch is not needed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from rich.console import Console

from weft.cli.args.model_config import KNOWN
from weft.parallel.arch.families import parse_config
from weft.parallel.layout import resolve
from weft.parallel.layout.serialize import flatten
from weft.tools.explain import document, explain, json_schema, print_report
from weft.tools.explain.units import binary, count

DATA = Path(__file__).parent / "data"
CONFIG = parse_config(json.loads((DATA / "config.json").read_text()))
LAYOUTS: dict[str, tuple[dict[str, object], int]] = {
    "own_sizes": ({"attention.dp": 4, "o_proj.tp": 4, "lm_head.tp": 2}, 4),
    "uneven_heads": ({"attention.tp": 2, "dense.tp": 4, "lm_head.tp": 1}, 4),
    "two_stages": ({"attention.tp": 3, "pipeline.stages": 2, "nodes": 2, "o_proj.within": "node"}, 6),
}


def text_of(values: dict[str, object], world: int, width: int = 160, batch: int = 8) -> str:
    report = explain("SmolLM2", CONFIG, resolve(values, world), dtype="bfloat16", batch=batch)
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_report(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_narrow_terminal_shows_fewer_ranks_and_every_boundary() -> None:
    text = text_of({"attention.tp": 2}, 8, width=80)
    picture, _, table = text.partition("boundary")
    assert "... and 4 more ranks" in picture and "rank 3" in picture and "rank 4" not in picture
    assert "…" not in text
    for name in ("embedding.in", "o_proj.out", "sampling.out"):
        assert name in table


def test_bars_stand_in_one_column_beside_long_names() -> None:
    config = parse_config(json.loads((KNOWN / "DeepSeek-V3.json").read_text()))
    layout = resolve({"attention.tp": 16}, 16, num_experts=256)
    console = Console(file=io.StringIO(), width=160, color_system=None)
    print_report(explain("V3", config, layout, dtype="bfloat16", batch=8), console)
    assert isinstance(console.file, io.StringIO)
    assert len({line.index("┃") for line in console.file.getvalue().splitlines() if "┃" in line}) == 1


def test_heavy_bars_stand_where_blocks_begin() -> None:
    lines = text_of({"attention.tp": 2, "dense.tp": 4}, 4).splitlines()
    held = {line.split()[0]: line for line in lines if "┃" in line}
    bars = {module: "".join(mark for mark in line if mark in "┃│") for module, line in held.items()}
    assert bars == {
        "embedding": "┃│┃│┃",
        "attention": "┃│┃│┃",
        "o_proj": "┃│┃│┃",
        "dense": "┃│││┃",
        "lm_head": "┃│┃│┃",
    }


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", LAYOUTS)
def test_json_keeps_its_schema(name: str, batch: int) -> None:
    values, world = LAYOUTS[name]
    report = explain("SmolLM2", CONFIG, resolve(values, world), dtype="bfloat16", batch=batch)
    data = json.loads(json.dumps(document(report)))
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(data)
    assert data["schema"] == "weft.explain/3"
    assert [each["rows_per_dp_group"] for each in data["received_per_step"]] == sorted({1, batch})
    assert [rank["rank"] for rank in data["ranks"]] == list(range(world))
    for boundary in data["boundaries"]:
        for call in boundary["collectives"]:
            assert [each["max"] for each in call["received"]] == [max(each["bytes"]) for each in call["received"]]
    assert resolve(flatten(data["layout"])) == report.layout


def test_the_schema_refuses_other_documents() -> None:
    report = explain("m", CONFIG, resolve({}), dtype="bfloat16")
    validator = Draft202012Validator(json_schema())
    for key in ("ranks", "boundaries", "schema"):
        data = document(report)
        del data[key]
        assert not validator.is_valid(data)
    assert not validator.is_valid(document(report) | {"more": 1})


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'transformers'):
            raise ImportError(name + ' is not for this command')
sys.meta_path.insert(0, Block())
from weft.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def small_gguf(path: Path) -> Path:
    """Headers of a llama of one layer with 9 heads, and just its embedding."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(36)
    writer.add_feed_forward_length(32)
    writer.add_head_count(9)
    writer.add_head_count_kv(3)
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", np.zeros((32, 36), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", ["directory", "config.json", "gguf"])
def test_explain_needs_no_torch(kind: str, tmp_path: Path) -> None:
    model = {"directory": DATA, "config.json": DATA / "config.json"}.get(kind) or small_gguf(tmp_path / "m.gguf")
    words = ["explain", str(model), "--attn-tp-size", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *words], capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["model"]["heads"] == 9


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (7680, "7.5 KiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")],
)
def test_units(number: int, text: str) -> None:
    assert binary(number) == text
    assert count(1048576) == "1,048,576"
