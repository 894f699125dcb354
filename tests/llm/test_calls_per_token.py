"""What a streamed token costs the engine's thread: calls, for behind a step Python finds its own code in no cache."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from types import FrameType

import weft
from tests.support.tiny_chat import write_tiny_chat

MOST = 90
"""Functions of Python that are entered for a token, from what a rank sends to its text; 78 when this was written."""


def test_a_streamed_token_takes_few_calls(tmp_path: Path) -> None:
    entered: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            entered.append(frame.f_code.co_qualname)

    with weft.LLM(write_tiny_chat(tmp_path / "tiny")) as llm:
        params = weft.SamplingParams(temperature=0.0, max_tokens=100, ignore_eos=True)
        stream = llm.stream([65, 66], params)
        list(islice(stream, 10))
        sys.setprofile(note)
        try:
            tokens = sum(len(piece.token_ids) for _, piece in islice(stream, 60))
        finally:
            sys.setprofile(None)
        stream.close()
    assert tokens == 60 and entered.count("ProcessExecutor.collect") == 60
    assert len(entered) / tokens < MOST
