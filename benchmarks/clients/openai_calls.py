"""Every kind of call of the official openai client, each with what must come back. Runs under openai 1.x and later.

As a program: `python openai_calls.py URL MODEL` prints a JSON line for each call. The model may say anything.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import openai

Call = Callable[[str, str], object]
HELLO: Any = [{"role": "user", "content": "Hello"}]
CALLS: dict[str, Call] = {}


def call(function: Call) -> Call:
    """Registers a function of (url, model) under its name."""
    CALLS[function.__name__.replace("_", " ")] = function
    return function


def client(url: str, **settings: Any) -> openai.OpenAI:
    """Of the server at `url`, without retries."""
    return openai.OpenAI(base_url=f"{url}/v1", **{"api_key": "none", "max_retries": 0, "timeout": 30, **settings})


def chat(url: str, served: str, /, **fields: Any) -> Any:
    """A short chat."""
    with client(url) as one:
        return one.chat.completions.create(**{"model": served, "messages": HELLO, "max_tokens": 4, **fields})


def complete(url: str, served: str, /, **fields: Any) -> Any:
    """A short completion."""
    with client(url) as one:
        return one.completions.create(**{"model": served, "prompt": "Hello", "max_tokens": 4, **fields})


@call
def models(url: str, model: str) -> None:
    with client(url) as one:
        assert model in [card.id for card in one.models.list()]
        assert one.models.retrieve(model).id == model


@call
def chat_whole(url: str, model: str) -> None:
    answer = chat(url, model)
    assert answer.object == "chat.completion" and answer.choices[0].message.role == "assistant"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@call
def chat_stream(url: str, model: str) -> None:
    with client(url) as one:
        stream = one.chat.completions.create(
            model=model, messages=HELLO, max_tokens=4, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    assert chunks[-1].usage is not None and not chunks[-1].choices
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] in ("stop", "length")


@call
def chat_stream_helper(url: str, model: str) -> None:
    with client(url) as one:
        helper = one.chat.completions if hasattr(one.chat.completions, "stream") else one.beta.chat.completions
        kinds = set()
        try:
            with helper.stream(model=model, messages=HELLO, max_tokens=4) as stream:
                for event in stream:
                    kinds.add(event.type)
        except openai.LengthFinishReasonError as error:  # the helper's word for an answer that was cut at max_tokens
            assert error.completion.choices[0].finish_reason == "length"
    assert {"chunk", "content.delta"} <= kinds


@call
def chat_with_every_sampling_word(url: str, model: str) -> None:
    answer = chat(
        url, model, temperature=0.7, top_p=0.9, n=2, seed=7, stop=["\n\n"], presence_penalty=0.1, frequency_penalty=0.1,
        logit_bias={"5": -1}, logprobs=True, top_logprobs=3, user="ann",
    )  # fmt: skip
    assert len(answer.choices) == 2
    assert all(len(entry.top_logprobs) == 3 for entry in answer.choices[0].logprobs.content)


@call
def chat_with_max_completion_tokens(url: str, model: str) -> None:
    with client(url) as one:
        answer = one.chat.completions.create(model=model, messages=HELLO, max_completion_tokens=3)
    assert answer.usage is not None and answer.usage.completion_tokens <= 3


@call
def chat_of_several_turns_and_parts(url: str, model: str) -> None:
    parts = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Again"},
    ]
    assert chat(url, model, messages=parts).choices


@call
def chat_with_extras_of_vllm(url: str, model: str) -> None:
    extra = {"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.1, "ignore_eos": True, "min_tokens": 2}
    assert chat(url, model, extra_body=extra).usage.completion_tokens == 4


@call
def raw_response(url: str, model: str) -> None:
    with client(url) as one:
        raw = one.chat.completions.with_raw_response.create(model=model, messages=HELLO, max_tokens=2)
        assert raw.headers["content-type"] == "application/json" and raw.parse().choices


@call
def streaming_response(url: str, model: str) -> None:
    with (
        client(url) as one,
        one.chat.completions.with_streaming_response.create(
            model=model, messages=HELLO, max_tokens=2, stream=True
        ) as raw,
    ):
        assert raw.status_code == 200 and list(raw.iter_lines())[-2:][0] == "data: [DONE]"


@call
def a_stream_left_early(url: str, model: str) -> None:
    with client(url) as one:
        stream = one.chat.completions.create(model=model, messages=HELLO, max_tokens=64, stream=True)
        next(iter(stream))
        stream.close()
        assert one.models.list().data


@call
def completion_of_text(url: str, model: str) -> None:
    answer = complete(url, model)
    assert answer.object == "text_completion" and answer.choices[0].finish_reason in ("stop", "length")


@call
def completion_of_several_texts(url: str, model: str) -> None:
    assert [choice.index for choice in complete(url, model, prompt=["Hello", "World"]).choices] == [0, 1]


@call
def completion_of_ids(url: str, model: str) -> None:
    assert complete(url, model, prompt=[5, 6, 7]).usage.prompt_tokens == 3
    assert len(complete(url, model, prompt=[[5, 6], [7]]).choices) == 2


@call
def completion_with_logprobs(url: str, model: str) -> None:
    logprobs = complete(url, model, logprobs=2).choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset)


@call
def completion_stream(url: str, model: str) -> None:
    with client(url) as one:
        chunks = list(one.completions.create(model=model, prompt="Hello", max_tokens=4, stream=True))
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


@call
def completion_with_echo(url: str, model: str) -> None:
    assert complete(url, model, echo=True).choices[0].text.startswith("Hello")


@call
def completion_with_echo_and_logprobs(url: str, model: str) -> None:
    """What lm-eval scores with."""
    choice = complete(url, model, prompt=[5, 6, 7], echo=True, logprobs=1, max_tokens=1, temperature=0).choices[0]
    assert len(choice.logprobs.token_logprobs) == 4 and choice.logprobs.token_logprobs[0] is None
    assert all(value is not None and value <= 0 for value in choice.logprobs.token_logprobs[1:])


@call
def completion_with_best_of_one(url: str, model: str) -> None:
    assert complete(url, model, best_of=1).choices


@call
def refusals(url: str, model: str) -> None:
    for kind, fields in (
        (openai.NotFoundError, {"model": "nobody"}),
        (openai.BadRequestError, {"temperature": -1}),
        (openai.BadRequestError, {"max_tokens": -1}),
        (openai.BadRequestError, {"messages": "Hello"}),
    ):
        try:
            chat(url, model, **fields)
        except kind as error:
            assert error.body and error.message
        else:
            raise AssertionError(f"{fields} was answered")


@call
def async_calls(url: str, model: str) -> None:
    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30) as one:
            create = one.chat.completions.create
            answers = await asyncio.gather(*(create(model=model, messages=HELLO, max_tokens=3) for _ in range(4)))
            assert len(answers) == 4
            stream = await create(model=model, messages=HELLO, max_tokens=3, stream=True)
            assert [chunk async for chunk in stream][-1].choices[0].finish_reason is not None

    asyncio.run(ask())


def tried(function: Call, url: str, model: str) -> dict[str, object]:
    """One call's result, as a line of the program's output."""
    try:
        function(url, model)
    except Exception as error:  # whatever a call ends with is its result
        return {"ok": False, "detail": f"{type(error).__name__}: {error}"[:300]}
    return {"ok": True, "detail": ""}


def report(calls: dict[str, Call], url: str, model: str) -> int:
    """Prints a line for each call; the exit code is 1 where one failed."""
    results = {name: tried(function, url, model) for name, function in calls.items()}
    for name, result in results.items():
        print(json.dumps({"call": name, **result}), flush=True)
    return 0 if all(result["ok"] for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(report(CALLS, sys.argv[1], sys.argv[2]))
