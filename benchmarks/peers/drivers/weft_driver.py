"""weft through weft.LLM, offline."""

from __future__ import annotations

import time
from typing import Any

from protocol import Answer, Driver, Refused, obey

import weft
from weft.base.errors import ConfigError, UsageError
from weft.tools.bench.machine import versions


class Weft(Driver):
    """Settings: model, tp, max_model_len, max_num_seqs, and `engine`: other fields of EngineConfig."""

    def load(self, settings: dict[str, Any]) -> str:
        try:
            self.llm = weft.LLM(
                settings["model"],
                tp=settings["tp"],
                max_model_len=settings["max_model_len"],
                max_num_seqs=settings["max_num_seqs"],
                enable_prefix_caching=False,
                **settings["engine"],
            )
        except (ConfigError, UsageError, TypeError) as error:
            raise Refused(str(error)) from error
        return str(versions()["weft"])

    def run(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        params = weft.SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        began = time.perf_counter()
        if len(prompts) > 1:
            results = self.llm.generate(prompts, params)
            return Answer(None, time.perf_counter() - began, [result.outputs[0].token_ids for result in results])
        first, ids = None, list[int]()
        for _, piece in self.llm.stream(prompts[0], params):
            first = time.perf_counter() - began if first is None else first
            ids += piece.token_ids
        return Answer(first, time.perf_counter() - began, [ids])


if __name__ == "__main__":
    obey(Weft())
