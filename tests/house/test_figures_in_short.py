"""The table that begins what docs/performance.md says of bounds, against what is saved."""

from __future__ import annotations

from tests.support.figures import PERFORMANCE, bound_share, ratios, shares_of_rate


def test_one_stream() -> None:
    bf16, int4 = (
        [bound_share(f"decode_bound_{machine}_{kind}.json")[0] for machine in machines]
        for kind, machines in (
            ("bf16", ("xeon", "zen4", "zen5", "amx", "avx2")),
            ("int4", ("zen4", "zen5", "amx", "avx2")),
        )
    )
    told = "| {} % of what memory allows on xeon, {} on zen4, {} on zen5, {} on amx, {} on avx2 |"
    assert told.format(*bf16) in PERFORMANCE
    assert "| {} % on zen4, {} on zen5, {} on amx, {} on avx2 |".format(*int4) in PERFORMANCE


def test_prompts() -> None:
    rates = [shares_of_rate(f"product_bound_{machine}.json")[0][0] for machine in ("zen4", "zen5", "amx")]
    assert "have {} of the machine's rate on zen4, {} on zen5, {} on amx |".format(*rates) in PERFORMANCE


def test_two_ranks() -> None:
    each = [ratios(f"several_ranks_{machine}.json", "several") for machine in ("zen5", "amx", "avx2")]
    one, _, _, prompt = zip(*each, strict=True)
    told = "{}, {} and {} of one rank's speed on zen5, amx and avx2 with one stream, {}, {} and {} in a prompt"
    assert told.format(*one, *prompt) in PERFORMANCE
