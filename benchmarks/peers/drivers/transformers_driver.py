"""transformers: `generate`, one static batch."""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from protocol import Answer, Driver, obey


class FirstToken(transformers.StoppingCriteria):
    """Notes when it is first asked, which is after the first token; stops nothing."""

    def __init__(self) -> None:
        self.at: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.at = time.perf_counter() if self.at is None else self.at
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Transformers(Driver):
    """Settings: model, threads."""

    def load(self, settings: dict[str, Any]) -> str:
        torch.set_num_threads(settings["threads"])
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            settings["model"], dtype=torch.bfloat16, attn_implementation="sdpa"
        ).eval()
        self.model.generation_config = transformers.GenerationConfig()
        return f"{transformers.__version__}, torch {torch.__version__}"

    @torch.inference_mode()
    def run(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        ids, first = torch.tensor(prompts), FirstToken()
        config = transformers.GenerationConfig(
            do_sample=False, max_new_tokens=new_tokens, min_new_tokens=new_tokens, pad_token_id=0, eos_token_id=None
        )
        began = time.perf_counter()
        found = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            stopping_criteria=transformers.StoppingCriteriaList([first]),
        )
        seconds = time.perf_counter() - began
        new = found[:, ids.shape[1] :].tolist()
        assert first.at is not None
        return Answer(first.at - began, seconds, new)


if __name__ == "__main__":
    obey(Transformers())
