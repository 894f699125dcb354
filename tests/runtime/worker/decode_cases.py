"""A small model's layouts, requests and plans for steps of streams alone."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from hypothesis import strategies as st
from msgspec.structs import replace

from weft.base.settings import EngineConfig
from weft.base.step.plan import DecodeRows, GroupPlan, NewRequest, ScheduledRequest
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.engine import Engine
from weft.engine.core.executor import Executor
from weft.runtime.worker.prepared_rank import RankCapacity

LIMITS = RankCapacity(num_blocks=12, block_size=4, max_num_seqs=4, max_model_len=32, max_num_batched_tokens=8)
VOCABULARY = 101
GREEDY = SamplingParams(temperature=0.0)
LAYOUTS: list[tuple[int, dict[str, object]]] = [
    (1, {}),
    (2, {"attention.tp": 2}),
    (2, {"attention.tp": 2, "dense.tp": 1}),
    (2, {"attention.dp": 2, "lm_head.tp": 2}),
    (4, {"attention.tp": 2, "attention.dp": 2, "o_proj.tp": 4, "dense.tp": 2, "lm_head.tp": 4}),
]
SHARED: list[tuple[int, dict[str, object]]] = [
    (2, {"attention.tp": 2, "attention.kv_split": 2}),
    (4, {"attention.tp": 4, "attention.kv_split": 2, "o_proj.tp": 2}),
    (4, {"attention.tp": 2, "attention.kv_split": 2, "attention.dp": 2, "dense.tp": 4}),
]
"""Of a model with one KV head."""


STAGED: list[tuple[int, dict[str, object]]] = [
    (2, {"pipeline.stages": 2}),
    (4, {"pipeline.stages": 2, "attention.tp": 2}),
    (4, {"pipeline.stages": 2, "attention.dp": 2, "lm_head.tp": 2}),
]
"""Of pipeline stages."""


Request = tuple[int, int, int, SamplingParams]
"""Step at which it comes, length of its prompt, tokens, and how it is sampled."""


def serve(executor: Executor, requests: Sequence[Request]) -> None:
    """Until all have ended; none may fail."""
    config = EngineConfig(max_model_len=32, max_num_seqs=4, max_num_batched_tokens=8, block_size=4)
    engine = Engine(executor, config, (), vocab_size=VOCABULARY)
    waiting, step = sorted(enumerate(requests), key=lambda each: each[1][0]), 0
    while waiting or engine.has_work:
        while waiting and (waiting[0][1][0] <= step or not engine.has_work):
            number, (_, length, tokens, params) = waiting.pop(0)
            most, ends = max(tokens, params.min_tokens), params.grammar is not None
            asked = replace(params, max_tokens=most, ignore_eos=not ends)
            ids = [(7 * number + 3 * place) % VOCABULARY for place in range(length)]
            engine.add_request(str(number), ids, asked)
        for output in engine.step():
            assert output.error is None, output.error
        step += 1


DRAWN = SamplingParams(temperature=0.8, top_k=20, top_p=0.9, seed=5)
MANY: list[Request] = [(0, 3, 20, GREEDY), (0, 9, 6, DRAWN), (2, 1, 3, GREEDY), (12, 5, 9, DRAWN), (14, 2, 12, GREEDY)]
"""Tables grow, slots are used again, prompts come between decode steps; the cache is too small for all of them."""


PARAMS = st.sampled_from(
    [
        GREEDY,
        GREEDY,
        DRAWN,
        SamplingParams(temperature=1.3, min_p=0.05, seed=9),
        SamplingParams(temperature=0.0, logprobs=2),
        SamplingParams(temperature=0.5, seed=1, repetition_penalty=1.2),
        SamplingParams(temperature=0.0, min_tokens=3, stop_token_ids=(7,)),
        SamplingParams(temperature=0.0, prompt_logprobs=1),
    ]
)
REQUESTS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 10), st.integers(1, 16), PARAMS), min_size=1, max_size=7
)


def admitted(slot: int, ids: list[int], params: SamplingParams = GREEDY) -> GroupPlan:
    return GroupPlan(
        [NewRequest(slot, ids, [], params, 0)], [ScheduledRequest(slot, 0, len(ids), ids, [slot + 1], True)]
    )


def streams(*rows: tuple[int, int, int], news: Sequence[tuple[int, int, list[int]]] = ()) -> GroupPlan:
    """rows: slot, position, output position."""
    found = DecodeRows.of([ScheduledRequest(slot, start, 1, [], [], True, at) for slot, start, at in rows])
    return GroupPlan([], [], DecodeRows(found.columns, list(news)))


def grown(group: GroupPlan, *blocks: tuple[int, int, int]) -> GroupPlan:
    """blocks: slot, known, block."""
    return GroupPlan(
        [], [], DecodeRows(group.decodes.columns, [], struct.pack(f"<{3 * len(blocks)}q", *sum(blocks, ())))
    )
