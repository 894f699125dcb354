"""What docs say of CUDA devices, against what is saved and what the code would choose."""

from __future__ import annotations

from tests.support.figures import ROOT, saved
from weft.worker.tensors.graphs import LAYER_S, PROMPT_COUNTS, worthwhile_rows

PAGE = " ".join((ROOT / "docs" / "devices.md").read_text().split())
FORMS = {"SmolLM2-135M": ("smollm2", 30), "Llama 1B": ("llama-1b", 16)}
CASES = saved("device_decode_h200.json")["cases"]


def rounded(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:.1f}"


def test_milliseconds_of_a_step() -> None:
    for title, (form, _) in FORMS.items():
        for streams in (1, 32, 128):
            ways = [CASES[f"{form}, {way}"] for way in ("graphs", "single operations", "transformers")]
            steps = [rounded(way[f"{streams} streams"]["step_ms"]) for way in ways]
            assert f"| {title}, {streams} | {' | '.join(steps)} |" in PAGE


def test_tokens_and_the_bound() -> None:
    small, large = CASES["smollm2, graphs"], CASES["llama-1b, graphs"]
    one, many = (small[f"{streams} streams"]["tokens_per_s"] for streams in (1, 128))
    assert f"{one:.0f} tokens a second for one stream of the small model and {many:,.0f} for 128" in PAGE
    assert f"({CASES['device']['copy_gb_per_s']:,.0f} GB/s," in PAGE
    layer = 1e3 * small["1 streams"]["step_ms"] / FORMS["SmolLM2-135M"][1]
    assert f"has {layer:.0f} us for each of its {FORMS['SmolLM2-135M'][1]} layers" in PAGE
    shares = [100 * case["1 streams"]["share_of_bound"] for case in (large, small)]
    assert "one stream of a billion weights has {:.0f} % of it, the small model {:.0f} %".format(*shares) in PAGE
    firsts = [
        sorted(1e3 * CASES[f"{form}, {way}"]["first_token_s"] for way in ("graphs", "single operations"))
        for form, _ in FORMS.values()
    ]
    words = "took {:.0f} to {:.0f} ms with the small model and {:.0f} to {:.0f} ms with a billion weights"
    assert words.format(*firsts[0], *firsts[1]) in PAGE


def test_rows_that_graphs_take() -> None:
    small, large = (CASES[f"{form}, graphs"]["weights_mb"] * 1e6 for form, _ in FORMS.values())
    rows = worthwhile_rows(16, int(large))
    ends = max(count for count in PROMPT_COUNTS if count <= rows)
    assert f"for a billion weights about {round(rows, -2):,}; graphs end at {ends:,} there" in PAGE
    assert worthwhile_rows(30, int(small)) > PROMPT_COUNTS[-1] and f"embedded model at {PROMPT_COUNTS[-1]:,}" in PAGE
    for form, layers in FORMS.values():
        layer = CASES[f"{form}, single operations"]["1 streams"]["step_ms"] / 1e3 / layers
        assert LAYER_S <= layer < 1.2 * LAYER_S
