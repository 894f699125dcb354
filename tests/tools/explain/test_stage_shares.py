"""Proposed layers of stages: as even as any others, by brute force."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from tests.tools.explain.test_explain_report import SMALL
from weft.parallel.arch.stages import head_products, keys_per_row, layer_products
from weft.parallel.layout.resolve import resolve
from weft.tools.explain.hops import evenest_layers
from weft.tools.explain.report import explain


@pytest.mark.parametrize("layers", range(1, 9))
def test_proposed_layers_are_the_evenest(layers: int) -> None:
    config = replace(SMALL, num_layers=layers)
    costs, head = layer_products(config), head_products(config)
    for stages in range(1, layers + 1):
        every = [each for each in itertools.product(range(1, layers + 1), repeat=stages) if sum(each) == layers]

        def longest(counts: tuple[int, ...]) -> int:
            ends = list(itertools.accumulate(counts))
            sums = [sum(costs[end - count : end]) for count, end in zip(counts, ends, strict=True)]
            return max([*sums[:-1], sums[-1] + head])

        assert longest(evenest_layers(config, stages)) == min(map(longest, every))


def test_products_are_those_of_the_weights() -> None:
    layer = layer_products(SMALL)[0]
    assert layer == sum(
        rows * columns
        for rows, columns in (
            (SMALL.num_heads * SMALL.head_dim, SMALL.hidden_size),
            (2 * SMALL.num_kv_heads * SMALL.head_dim, SMALL.hidden_size),
            (SMALL.hidden_size, SMALL.num_heads * SMALL.head_dim),
            (3 * SMALL.intermediate_size, SMALL.hidden_size),
        )
    )
    assert keys_per_row(SMALL) == layer / (2 * SMALL.num_heads * SMALL.head_dim)


def test_the_report_prices_the_head_and_proposes_layers() -> None:
    config = replace(SMALL, vocab_size=100 * SMALL.vocab_size)
    report = explain("m", config, resolve({"pipeline.stages": 2}), dtype="bfloat16")
    lines = [note.message for note in report.notes if note.code == "stage_shares"]
    assert "of a decode row, lm_head included, and 50% + 50% of a prompt's row" in lines[0]
    assert lines[1].startswith("--pipeline-layers 3,1 is evenest for decode rows")
    assert not [
        note for note in explain("m", config, resolve({}), dtype="bfloat16").notes if note.code == "stage_shares"
    ]
