"""Answers of `weft generate` on the terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from weft.cli.view.say import shown_text
from weft.frontend.llm_outputs import Result
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.serialize import to_dict

SCHEMA = "weft.generate/1"


def print_answers(prompts: Sequence[str], results: Sequence[Result]) -> None:
    """Each under its prompt."""
    for prompt, result in zip(prompts, results, strict=True):
        for output in result.outputs:
            number = f" ({output.index + 1})" if len(result.outputs) > 1 else ""
            print(f">>> {prompt}{number}\n{shown_text(output.text)}\n")


def document(name: str, layout: Layout, results: Sequence[Result]) -> dict[str, object]:
    """The same as one JSON object; `name`: the model's."""
    return {
        "schema": SCHEMA,
        "model": name,
        "layout": to_dict(layout),
        "results": [
            {
                "prompt": result.prompt,
                "prompt_tokens": len(result.prompt_token_ids),
                "cached_tokens": result.cached_tokens,
                "outputs": [
                    {
                        "index": output.index,
                        "text": output.text,
                        "token_ids": output.token_ids,
                        "finish_reason": output.finish_reason,
                        "stop_reason": output.stop_reason,
                        "logprobs": [
                            {"token_id": entry.token_id, "logprob": entry.logprob, "top": entry.top}
                            for entry in output.logprobs
                        ],
                    }
                    for output in result.outputs
                ],
            }
            for result in results
        ],
    }
