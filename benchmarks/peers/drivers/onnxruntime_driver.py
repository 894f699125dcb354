"""onnxruntime-genai: `Generator`, one static batch."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnxruntime_genai as genai
from protocol import Answer, Driver, obey


class OnnxRuntime(Driver):
    """Settings: model, threads."""

    def load(self, settings: dict[str, Any]) -> str:
        config = genai.Config(settings["model"])
        threads = {"intra_op_num_threads": settings["threads"], "inter_op_num_threads": 1}
        config.overlay(f'{{"model": {{"decoder": {{"session_options": {_json(threads)}}}}}}}')
        self.model = genai.Model(config)
        return str(genai.__version__)

    def run(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        ids = np.array(prompts, np.int32)
        length = ids.shape[1] + new_tokens
        params = genai.GeneratorParams(self.model)
        params.set_search_options(
            batch_size=len(prompts), max_length=length, min_length=length, do_sample=False, early_stopping=False
        )
        began = time.perf_counter()
        generator = genai.Generator(self.model, params)
        generator.append_tokens(ids)
        generator.generate_next_token()
        first = time.perf_counter() - began
        for _ in range(new_tokens - 1):
            generator.generate_next_token()
        seconds = time.perf_counter() - began
        new = [[int(i) for i in generator.get_sequence(row)[ids.shape[1] :]] for row in range(len(prompts))]
        return Answer(first, seconds, new)


def _json(values: dict[str, int]) -> str:
    return "{" + ", ".join(f'"{name}": {value}' for name, value in values.items()) + "}"


if __name__ == "__main__":
    obey(OnnxRuntime())
