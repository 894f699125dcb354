"""Incremental text: pieces join to the whole, never half a character, stop strings wherever tokens fall."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers

from tests.support.checkpoints import TEXT, trained_tokenizer
from weft.base.errors import RequestError
from weft.engine.text import IncrementalDetokenizer, Tokenizer
from weft.engine.text.offsets import TextOffsets


@cache
def byte_level() -> Tokenizer:
    named = {"bos_token": "<|start|>", "eos_token": "<|end|>"}
    return Tokenizer(trained_tokenizer(400), named=named, templates={})


@cache
def sentencepiece() -> Tokenizer:
    tokens = ["<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab"]
    merges = [("▁", "a"), ("a", "b")]
    backend = Backend(
        models.BPE(vocab={token: id for id, token in enumerate(tokens)}, merges=merges, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<s>"])
    return Tokenizer(backend, named={"bos_token": "<s>"}, templates={})


KINDS = {"byte_level": byte_level, "sentencepiece": sentencepiece}
NO_LETTERS = ("\u2581", "<s>", "<|start|>", "<|end|>")
"""What a tokenizer here takes for a space, or for a token of no text."""
PLAIN = st.text(max_size=25).filter(lambda text: not any(each in text for each in NO_LETTERS))


@st.composite
def calls(draw: st.DrawFn, ids: list[int]) -> list[list[int]]:
    """`ids` in any grouping, empty groups included."""
    cuts = sorted(draw(st.lists(st.integers(0, len(ids)), max_size=12)))
    return [ids[lo:hi] for lo, hi in zip([0, *cuts], [*cuts, len(ids)], strict=True)]


def run(text: IncrementalDetokenizer, groups: list[list[int]]) -> list[str]:
    return [*(text.push(group) for group in groups), text.finish()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [True, False])
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_pieces_of_any_ids_join_to_the_whole(kind: str, skip: bool, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]()
    ids = data.draw(st.lists(st.integers(-1, tokenizer.vocab_size + 2), max_size=25))
    groups = data.draw(calls(ids))
    pieces = run(IncrementalDetokenizer(tokenizer, skip_special_tokens=skip), groups)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_what_was_pushed_is_text_at_once_and_whole(kind: str, data: st.DataObject) -> None:
    """After every id: all whole characters are out, but for a run of tokens that are a byte each, and only those."""
    tokenizer = KINDS[kind]()
    text = data.draw(PLAIN)
    ids = tokenizer.encode(text, add_special_tokens=False)
    incremental, seen, raw, run_of_bytes = IncrementalDetokenizer(tokenizer), "", b"", b""
    for at, id in enumerate(ids):
        piece = incremental.push([id])
        run_of_bytes = run_of_bytes + tokenizer.token_bytes(id) if id in tokenizer.pieces.byte_ids else b""
        raw = raw if run_of_bytes else b"".join(map(tokenizer.token_bytes, ids[: at + 1]))
        seen += piece
        whole = raw.removeprefix(b" ") if kind == "sentencepiece" else raw
        assert "\ufffd" not in piece or "\ufffd" in text
        assert seen == whole.decode("utf-8", "ignore"), at
    assert seen + incremental.finish() == text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 261) | st.sampled_from([195, 169, 33, 229, 190, 161]), max_size=14))
def test_runs_of_bytes_are_read_as_the_tokenizer_reads_them(ids: list[int]) -> None:
    tokenizer = sentencepiece()
    key = tokenizer._backend.decode(ids)
    assert tokenizer.decode(ids) == key == "".join(run(IncrementalDetokenizer(tokenizer), [[id] for id in ids]))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_token_that_is_text_stands_at_its_offset(kind: str, data: st.DataObject) -> None:
    """In a prompt that is repeated, with a special token before it, and in an answer after it."""
    tokenizer = KINDS[kind]()
    prompt, answer = data.draw(PLAIN), data.draw(PLAIN)
    own = tokenizer.encode(prompt, add_special_tokens=False)
    ids, more = [0, *own], tokenizer.encode(f"x{answer}", add_special_tokens=False)
    skip = tokenizer.skipped(True)
    whole = prompt + "".join(run(IncrementalDetokenizer(tokenizer, prompt_ids=ids), [more]))
    offsets = TextOffsets(tokenizer, ids, skip, prompt)
    found = offsets.of_prompt(ids) + offsets.of_answer(more)
    assert found == sorted(found) and found[:1] == [0]
    apart = TextOffsets(tokenizer, ids, skip, prompt)
    assert [at for id in more for at in apart.of_answer([id])] == found[len(ids) :]
    for number, (id, at) in enumerate(zip(ids + more, found, strict=True)):
        text = tokenizer.token_bytes(id).decode("utf-8", "ignore")
        if text and id not in skip and text.encode() == tokenizer.token_bytes(id):
            text = text.removeprefix(" ") if number == 1 and kind == "sentencepiece" else text
            assert whole[at:].startswith(text), (number, whole, at)


def test_half_a_character_at_the_end_is_said() -> None:
    ids = byte_level().encode("ab🙂", add_special_tokens=False)
    text = IncrementalDetokenizer(byte_level())
    assert text.push(ids[:-1]) == "ab"
    assert text.finish() == "\ufffd"


def test_ids_that_continue_a_text_keep_their_space() -> None:
    tokenizer = sentencepiece()
    prompt, ids = tokenizer.encode("b"), tokenizer.encode("a", add_special_tokens=False)
    assert IncrementalDetokenizer(tokenizer).push(ids) == "a"
    assert IncrementalDetokenizer(tokenizer, prompt_ids=prompt).push(ids) == " a"
    assert IncrementalDetokenizer(tokenizer, prompt_ids=[0]).push(ids) == "a"
    whole = tokenizer.decode([*prompt, *ids])
    assert whole == tokenizer.decode(prompt) + " a"


def expected(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """The match that ends first, of those the longest: by trying every end."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return (text[:end] if include else text[: end - len(longest)]), longest
    return text, None


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_stop_strings_wherever_tokens_fall(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]()
    text = data.draw(st.text(st.sampled_from("ab 🙂é"), max_size=20))
    stops = data.draw(st.lists(st.text(st.sampled_from("ab 🙂é"), min_size=1, max_size=4), max_size=3))
    include = data.draw(st.booleans())
    groups = data.draw(calls(tokenizer.encode(text, add_special_tokens=False)))
    incremental = IncrementalDetokenizer(tokenizer, stop=stops, include_stop=include)
    got = "".join(run(incremental, groups))
    assert (got, incremental.stopped_by) == expected(text, stops, include)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_held_back_only_what_may_start_a_stop_string(data: st.DataObject) -> None:
    tokenizer = byte_level()
    text = data.draw(st.text(st.sampled_from("abc"), max_size=20))
    stops = data.draw(st.lists(st.text(st.sampled_from("abc"), min_size=1, max_size=5), min_size=1, max_size=3))
    incremental, out, given_text = IncrementalDetokenizer(tokenizer, stop=stops), "", ""
    for id in tokenizer.encode(text, add_special_tokens=False):
        out += incremental.push([id])
        given_text += tokenizer.token_bytes(id).decode()
        if incremental.stopped_by is not None:
            break
        held = given_text.removeprefix(out)
        starts = [given_text[at:] for at in range(len(given_text)) if any(s.startswith(given_text[at:]) for s in stops)]
        assert held == max(starts, key=len, default="")


def test_nothing_comes_after_a_stop() -> None:
    ids = byte_level().encode(TEXT, add_special_tokens=False)
    incremental = IncrementalDetokenizer(byte_level(), stop=["lazy"])
    assert incremental.push(ids).endswith("over the ")
    assert (incremental.push(ids), incremental.finish(), incremental.stopped_by) == ("", "", "lazy")


def test_a_stop_string_that_ends_in_the_rest() -> None:
    """U+FFFD of an unfinished character is text that a stop string may match."""
    incremental = IncrementalDetokenizer(byte_level(), stop=["b\ufffd"])
    assert incremental.push(byte_level().encode("ab🙂", add_special_tokens=False)[:-1]) == "a"
    assert (incremental.finish(), incremental.stopped_by) == ("", "b\ufffd")


@pytest.mark.parametrize("group", [1, 2, 3, 100])
def test_no_stop_string_before_the_minimum(group: int) -> None:
    tokenizer = byte_level()
    ids = [id for _ in range(6) for id in tokenizer.encode("x", add_special_tokens=False)]
    groups = [ids[at : at + group] for at in range(0, len(ids), group)]
    incremental = IncrementalDetokenizer(tokenizer, stop=["x"], min_tokens=3)
    assert "".join(run(incremental, groups)) == "xxx"
    assert incremental.stopped_by == "x"


def test_the_minimum_is_not_reached_by_part_of_a_stop_string() -> None:
    tokenizer = byte_level()
    ids = [id for letter in "qzqz" for id in tokenizer.encode(letter, add_special_tokens=False)]
    incremental = IncrementalDetokenizer(tokenizer, stop=["qz"], min_tokens=1)
    assert "".join(run(incremental, [ids])) == "qz"


def test_empty_stop_string_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        IncrementalDetokenizer(byte_level(), stop=["a", ""])
    assert caught.value.param == "stop"


def test_special_tokens_that_are_kept_are_text() -> None:
    tokenizer = byte_level()
    start, end = tokenizer.token_id("<|start|>"), tokenizer.token_id("<|end|>")
    assert start is not None and end is not None
    ids = [start, *tokenizer.encode("a", add_special_tokens=False), end]
    assert run(IncrementalDetokenizer(tokenizer, kept=frozenset({end})), [ids]) == ["a<|end|>", ""]
