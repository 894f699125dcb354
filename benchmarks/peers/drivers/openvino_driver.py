"""OpenVINO GenAI: `ContinuousBatchingPipeline`, step by step."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
from protocol import Answer, Driver, obey


class OpenVino(Driver):
    """Settings: model, threads, bf16 (compute in bf16 instead of the default), max_num_seqs."""

    def load(self, settings: dict[str, Any]) -> str:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = settings["cache_gib"]
        scheduler.max_num_batched_tokens = 4096
        scheduler.max_num_seqs = settings["max_num_seqs"]
        scheduler.enable_prefix_caching = False
        properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": settings["threads"], "NUM_STREAMS": 1}
        if settings["bf16"]:
            properties["INFERENCE_PRECISION_HINT"] = ov.Type.bf16
        self.pipeline = genai.ContinuousBatchingPipeline(settings["model"], scheduler, "CPU", properties)
        self.requests = 0
        return str(genai.__version__)

    def run(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        config = genai.GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True, do_sample=False)
        inputs = [ov.Tensor(np.array([prompt], np.int64)) for prompt in prompts]
        first = None
        began = time.perf_counter()
        handles = []
        for ids in inputs:
            handles.append(self.pipeline.add_request(self.requests, ids, config))
            self.requests += 1
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            if first is None and any(handle.can_read() for handle in handles):
                first = time.perf_counter() - began
        seconds = time.perf_counter() - began
        return Answer(first, seconds, [list(handle.read_all()[0].generated_ids) for handle in handles])


if __name__ == "__main__":
    obey(OpenVino())
