"""Seconds of terms: what a product, a read of keys and a collective may not take less than."""

from __future__ import annotations

import pytest

from tests.support.exact_model import exact_config
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve
from weft.tools.explain.proposals import StepLoad
from weft.tools.plan.clusters import Cluster, Rates, named_devices, read_cluster
from weft.tools.plan.dominance import amounts
from weft.tools.plan.goal import Goal
from weft.tools.plan.parts import Explained, Shape
from weft.tools.plan.times import Term, seconds_of, total

RATES = Rates(100.0, 1000.0, 50.0, 5.0, "stated", 0.25, 0.5, 2.0, 0.0)


def test_a_product_takes_the_longest_of_three() -> None:
    assert seconds_of(Term("p", 200.0, 500.0), RATES) == 2.0
    assert seconds_of(Term("p", 100.0, 3000.0), RATES) == 3.0
    assert seconds_of(Term("p", 1.0, 1.0), RATES) == 0.25
    assert seconds_of(Term("p", 200.0, 500.0), RATES, scale=4.0) == 0.5


def test_a_collective_has_a_floor_for_each_message() -> None:
    assert seconds_of(Term("c all_gather", 100.0, 0.0, 2), RATES) == 2.5
    assert seconds_of(Term("c all_reduce+", 100.0, 0.0, 2), RATES) == 3.0
    assert seconds_of(Term("c all_gather", 100.0, 0.0, 2, True), RATES) == 22.0
    assert amounts((Term("c all_reduce+", 100.0, 0.0, 2),)) == {(2, False): (100.0, 0.0, 2)}
    assert total((Term("p", 1.0), Term("c", 0.0, 0.0, 2)), RATES) == 0.75


def test_keys_of_a_longer_context_take_longer() -> None:
    config = parse_config(exact_config("tied"))
    found = []
    for prompt in (10, 40):
        goal = Goal(4, prompt, 8, StepLoad(64, 8, 4), 4)
        explained = Explained(config, Cluster("x", 2, 2, 1 << 30, RATES), goal)
        layout = explained.layout(Shape(1, 2), {})
        explained.look(layout, (("decode", 2),))
        (keys,) = [term for term in explained.parts[Shape(1, 2), False, "attention", 1].terms["decode", 2]
                   if term.name == "keys"]  # fmt: skip
        found.append(keys.nbytes)
        each = Shards(config, resolve({})).kv_bytes_per_token(0, 4) / config.num_layers
        assert keys.nbytes == pytest.approx(2 * goal.context * each)
    assert found[1] > found[0]


def test_every_device_has_all_numbers_and_a_source() -> None:
    for name, device in named_devices().items():
        cluster = read_cluster(f"{name}x16", "bfloat16")
        assert cluster.devices == 16 and cluster.per_node == device.node
        assert device.source in cluster.rates.source and not cluster.rates.measured
        assert device.inside >= device.across > 0
