"""weft.LLM over real ranks: results, conversations, stop strings, seeds, faults, ends."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import weft
from tests.support.tiny_chat import END, write_tiny_chat
from weft import LLM, SamplingParams
from weft.base.errors import ConfigError, LayoutError, PeerError, RequestError, UsageError

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
LAYOUT = {"attention": {"tp": 1, "dp": 2}, "dense.tp": 2, "lm_head.tp": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("llm") / "tiny")


@pytest.fixture(scope="module")
def llm(model: Path) -> Iterator[LLM]:
    with weft.LLM(model, layout=LAYOUT, max_num_seqs=8, block_size=8) as one:
        yield one


@pytest.fixture(scope="module")
def alone(model: Path) -> Iterator[LLM]:
    with weft.LLM(model) as one:
        yield one


@pytest.fixture(scope="module")
def both(model: Path) -> Iterator[LLM]:
    with weft.LLM(model, tp=2) as one:
        yield one


def test_the_layout_is_the_one_asked_for(llm: LLM, alone: LLM) -> None:
    assert (llm.plan.layout.world, llm.plan.layout.attention.dp, llm.plan.layout.dense.tp) == (2, 2, 2)
    assert alone.plan.layout.world == 1
    assert llm.plan.engine.block_size == 8 and llm.plan.engine.max_model_len == 256


def test_prompts_of_every_kind_give_results_in_order(llm: LLM) -> None:
    prompts: Any = ["ab", [65, 66], "ab"]
    results = llm.generate(prompts, GREEDY)
    assert [result.prompt for result in results] == ["ab", None, "ab"]
    assert results[0].outputs == results[2].outputs
    assert all(len(result.outputs[0].token_ids) == 12 for result in results)
    assert all(result.outputs[0].finish_reason == "length" for result in results)
    assert llm.generate("ab", GREEDY)[0].outputs == results[0].outputs
    assert llm.generate([65, 66], GREEDY)[0].outputs == results[1].outputs
    assert llm.generate([], GREEDY) == []


def test_more_prompts_than_can_run_at_once(llm: LLM) -> None:
    prompts = [f"prompt {i % 5}" for i in range(40)]
    results = llm.generate(prompts, GREEDY)
    for i, result in enumerate(results):
        assert result.outputs == results[i % 5].outputs


def test_layouts_agree(llm: LLM, alone: LLM) -> None:
    prompts = ["The capital of France is", "x", "one two three four five six seven eight nine"]
    ours = [result.outputs[0].token_ids for result in llm.generate(prompts, GREEDY)]
    assert ours == [result.outputs[0].token_ids for result in alone.generate(prompts, GREEDY)]


def test_conversations_go_through_the_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    (result,) = llm.chat(messages, GREEDY)
    text = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert result.prompt == text
    assert result.outputs == llm.generate([llm.tokenizer.encode(text)], GREEDY)[0].outputs
    assert [one.outputs for one in llm.chat([messages, messages], GREEDY)] == [result.outputs] * 2
    assert llm.chat(messages, GREEDY, add_generation_prompt=False)[0].prompt == text.removesuffix(
        "<|im_start|>assistant\n"
    )


def test_params_for_each_prompt(llm: LLM) -> None:
    each = [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True) for n in (1, 2, 3)]
    results = llm.generate(["x"] * 3, each)
    assert [len(result.outputs[0].token_ids) for result in results] == [1, 2, 3]


def test_seeds_decide_and_n_outputs_differ(llm: LLM) -> None:
    params = SamplingParams(temperature=1.5, n=3, seed=7, max_tokens=10, ignore_eos=True)
    first, again = llm.generate(["x"], params), llm.generate(["y", "x"], params)[1:]
    assert first[0].outputs == again[0].outputs
    assert len({tuple(output.token_ids) for output in first[0].outputs}) == 3
    other = llm.generate(["x"], SamplingParams(temperature=1.5, seed=8, max_tokens=10, ignore_eos=True))
    assert other[0].outputs[0].token_ids != first[0].outputs[0].token_ids


def test_a_stop_string_ends_the_text(llm: LLM) -> None:
    whole = llm.generate("ab", GREEDY)[0].outputs[0]
    stop = whole.text[3:5]
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, stop=(stop,))
    output = llm.generate("ab", params)[0].outputs[0]
    assert output.text == whole.text[: whole.text.index(stop)]
    assert (output.finish_reason, output.stop_reason) == ("stop", stop)


def test_the_models_end_is_a_token_but_not_text(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=5, logit_bias=((END, 100.0),))
    output = llm.generate("ab", params)[0].outputs[0]
    assert (output.token_ids, output.text, output.finish_reason) == ([END], "", "stop")


def test_logprobs_come_when_asked_for(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True, logprobs=2)
    output = llm.generate("ab", params)[0].outputs[0]
    assert [entry.token_id for entry in output.logprobs] == output.token_ids
    assert all(entry.top[0] == (entry.token_id, entry.logprob) and len(entry.top) == 2 for entry in output.logprobs)
    assert llm.generate("ab", GREEDY)[0].outputs[0].logprobs == []


def test_logprobs_of_a_prompt_come_with_its_result(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=2, n=2, prompt_logprobs=1)
    for result in llm.generate(["abc", "ab"], params):
        assert [entry.token_id for entry in result.prompt_logprobs] == result.prompt_token_ids[1:]
    assert llm.generate("ab", GREEDY)[0].prompt_logprobs == []


def test_a_prompt_that_no_token_can_follow_is_an_error(llm: LLM) -> None:
    ends = tuple(llm.tokenizer.eos_token_ids)
    with pytest.raises(RequestError, match="every token was ruled out"):
        llm.generate("ab", SamplingParams(max_tokens=2, min_tokens=1, allowed_token_ids=ends))
    assert llm.generate("ab", GREEDY)[0].outputs[0].finish_reason == "length"


def test_a_stream_gives_the_same_text_in_pieces(llm: LLM) -> None:
    pieces = [piece for _, piece in llm.stream("ab", GREEDY)]
    assert "".join(piece.text for piece in pieces) == llm.generate("ab", GREEDY)[0].outputs[0].text
    assert [piece.finish_reason for piece in pieces if piece.finish_reason] == ["length"]


def test_a_stream_is_of_one_prompt(llm: LLM) -> None:
    for several in (["ab", "cd"], [[65], [66]], []):
        with pytest.raises(RequestError, match=f"a stream is of one prompt, got {len(several)}"):
            next(llm.stream(several, GREEDY))  # type: ignore[arg-type]
    assert list(llm.stream(["ab"], GREEDY)) == list(llm.stream("ab", GREEDY))  # type: ignore[arg-type]


def test_an_abandoned_stream_leaves_nothing_behind(llm: LLM) -> None:
    stream: Any = llm.stream("ab", GREEDY)
    next(stream)
    with pytest.raises(ConfigError, match="generating already.*close"):
        llm.generate("ab", GREEDY)
    stream.close()
    assert len(llm.generate("ab", GREEDY)[0].outputs[0].token_ids) == 12


def test_one_bad_prompt_runs_nothing(llm: LLM) -> None:
    one_is_long: Any = ["ab", [65] * 300]
    with pytest.raises(RequestError, match="prompt has 300 tokens"):
        llm.generate(one_is_long, GREEDY)
    with pytest.raises(RequestError, match="temperature"):
        llm.generate("ab", SamplingParams(temperature=-1.0))
    with pytest.raises(RequestError, match="2 SamplingParams for 1 prompts"):
        llm.generate("ab", [GREEDY, GREEDY])
    with pytest.raises(UsageError, match="SamplingParams has no warmth"):
        llm.default_params(warmth=1)
    assert len(llm.generate("ab", GREEDY)[0].outputs[0].token_ids) == 12


def test_options_that_do_not_exist_or_do_not_fit(model: Path) -> None:
    with pytest.raises(
        ConfigError,
        match="max_len: LLM has no such option; engine options: dtype, quantization, activations, compress_weights",
    ):
        weft.LLM(model, max_len=3)
    with pytest.raises(ConfigError, match="max_num_seqs"):
        weft.LLM(model, max_num_seqs=0)
    with pytest.raises(LayoutError, match="legal"):
        weft.LLM(model, layout={"attention.dp": 2, "dense.tp": 3})
    with pytest.raises(LayoutError):
        weft.LLM(model, tp=2, layout={"attention.tp": 2})


def test_a_dead_rank_is_named_and_ends_the_llm(model: Path) -> None:
    with weft.LLM(model, tp=2) as doomed:
        stream = doomed.stream("ab", SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True))
        next(stream)
        workers: Any = doomed._engines._executors[0].workers
        os.kill(workers[1].pid, signal.SIGKILL)
        with pytest.raises(PeerError, match=r"rank 1 \(tp 1\) pid \d+ was killed by SIGKILL in phase serving"):
            list(stream)
        assert all(worker.process.poll() is not None for worker in workers)
        with pytest.raises(PeerError):
            doomed.generate("ab", GREEDY)


@pytest.mark.gpu
@pytest.mark.parametrize("how", [{}, {"enforce_eager": True}, {"tp": 2, "ranks_per_device": 2}], ids=str)
def test_a_cuda_device_gives_the_processors_tokens(model: Path, alone: LLM, how: dict[str, Any]) -> None:
    if not importlib.import_module("torch").cuda.is_available():
        pytest.skip("no CUDA device here")
    with weft.LLM(model, device="cuda", **how) as device:
        assert device.plan.memory is None or device.plan.memory.num_blocks > 0
        prompts = ["The capital of France is", "x"]
        ours = [result.outputs[0].token_ids for result in device.generate(prompts, GREEDY)]
        assert ours == [result.outputs[0].token_ids for result in alone.generate(prompts, GREEDY)]
