"""Pipeline stages on a simulated clock, under the real engine."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.common.bursts import Burst
from benchmarks.common.stage_simulation import StageShares, fitted, idle_shares, simulated
from tests.support.checkpoints import small_config
from weft.base.settings import EngineConfig
from weft.parallel.arch import parse_config
from weft.parallel.layout import resolve

CONFIG = parse_config(small_config(num_hidden_layers=4, vocab_size=64))
SETTINGS = EngineConfig(max_model_len=4096, enable_prefix_caching=False)
ONE, TWO = resolve({}), resolve({"pipeline.stages": 2})
COST = np.array([2e-3, 1e-4, 1e-5])
STREAMS: Burst = (8, 16, 20)
PROMPT: Burst = (1, 4000, 1)


def test_one_stage_takes_the_sum_of_its_steps_and_never_waits() -> None:
    alone = simulated(STREAMS, ONE, CONFIG, SETTINGS, COST)
    assert alone.now == pytest.approx(alone.done @ COST)
    assert alone.done[0] == 20 and alone.done[1] == 8 * 19  # the prompts' step gives the first token of each
    assert idle_shares(alone) == [0.0]


def test_two_stages_take_turns() -> None:
    alone, staged = (simulated(STREAMS, layout, CONFIG, SETTINGS, COST) for layout in (ONE, TWO))
    rows, longest = np.array([0.0, 8 * 19, 0.0]), StageShares.of(CONFIG, TWO).sampled.max()
    assert staged.done[1] == alone.done[1] and staged.done[0] > 1.8 * alone.done[0] - 4
    assert staged.now > longest * (staged.done[0] - 2) * COST[0] + rows @ COST * longest
    assert max(idle_shares(staged)) < 0.5


def test_chunks_of_a_prompt_follow_each_other() -> None:
    alone, staged = (simulated(PROMPT, layout, CONFIG, SETTINGS, COST) for layout in (ONE, TWO))
    assert 1.5 < alone.now / staged.now < 2
    assert idle_shares(staged)[0] < 0.01 < idle_shares(staged)[1] < 0.3


def test_a_cost_is_found_from_what_one_rank_took() -> None:
    bursts: list[Burst] = [STREAMS, (4, 16, 20), (32, 16, 20), PROMPT]
    seconds = {burst: simulated(burst, ONE, CONFIG, SETTINGS, COST).now for burst in bursts}
    assert fitted(seconds, ONE, CONFIG, SETTINGS) == pytest.approx(COST, rel=1e-6)


def test_the_head_is_the_last_stage_s() -> None:
    shares = StageShares.of(CONFIG, TWO)
    assert shares.prompt.tolist() == [0.5, 0.5] and shares.sampled[1] > shares.sampled[0]
    assert shares.sampled.sum() == pytest.approx(1)
