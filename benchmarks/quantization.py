"""What 8 and 4 bits cost: perplexity of a text, and greedy agreement, against the same weights in bf16.

python benchmarks/quantization.py [MODEL] [--windows N] [--out FILE.json]. The text is that of Python's own help topics
(`pydoc_data.topics`, by the Python Software Foundation), in the order of their names: no file is needed, the Python
version says which text it was. Each window is scored alone. `gguf` is measured where MODEL is such a file; where its
blocks have 4 bits, int4 finds them again and loses less than it would on weights that were never rounded. Each once
more with activations of 8 bits.
"""

from __future__ import annotations

import argparse
import json
import math
import pydoc_data.topics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.common.about import about
from benchmarks.common.command import result_file, run_command, whole
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.compute.native.build import ensure_built
from weft.compute.ops.base import Numerics
from weft.engine.core.engine import Engine
from weft.engine.text import Tokenizer
from weft.model.checkpoint import Checkpoint, open_checkpoint
from weft.model.checkpoint.hub.paths import model_path
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity

WINDOW, PROMPT, ANSWER, BLOCK = 512, 32, 64, 16


def windows_of(tokenizer: Tokenizer, count: int) -> list[list[int]]:
    """`count` runs of WINDOW tokens, evenly from all of the text."""
    topics = pydoc_data.topics.topics
    ids = list(tokenizer.encode("\n".join(topics[name] for name in sorted(topics))))
    stride = (len(ids) - WINDOW) // max(1, count - 1)
    return [ids[i * stride : i * stride + WINDOW] for i in range(count)]


def engine_for(checkpoint: Checkpoint, quantization: str, int8_activations: bool) -> tuple[Engine, int]:
    """An engine of one rank in this process, and the bytes of its weights."""
    config = parse_config(checkpoint.config)
    shards = Shards(config, resolve({}))
    blocks = 4 * (WINDOW + ANSWER) // BLOCK
    limits = RankCapacity(blocks, BLOCK, 4, WINDOW + ANSWER)
    numerics = Numerics(torch.bfloat16, quantization=quantization, int8_activations=int8_activations)
    executor = LockstepExecutor(checkpoint, shards, numerics, limits, torch.device("cpu"))
    engine_config = EngineConfig(dtype="bfloat16", max_model_len=WINDOW + ANSWER, max_num_seqs=4)
    params = {id(param): param.nbytes for param in executor.runners[0].params.values()}
    return Engine(executor, engine_config, (), vocab_size=config.vocab_size), sum(params.values())


def run(engine: Engine, prompts: list[list[int]], params: SamplingParams) -> list[tuple[list[int], list[float]]]:
    """Of each prompt: the ids that were generated, and the log-probabilities of its own tokens."""
    found: list[tuple[list[int], list[float]]] = [([], []) for _ in prompts]
    for index, prompt in enumerate(prompts):
        engine.add_request(str(index), prompt, params)
    while engine.has_work:
        for output in engine.step():
            ids, scores = found[int(output.request_id)]
            ids.extend(output.new_token_ids)
            scores.extend(each.logprob for each in output.prompt_logprobs)
    return found


def measure(
    checkpoint: Checkpoint, quantization: str, int8_activations: bool, windows: list[list[int]]
) -> dict[str, Any]:
    engine, nbytes = engine_for(checkpoint, quantization, int8_activations)
    scored = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, prompt_logprobs=0)
    scores = [score for _, found in run(engine, windows, scored) for score in found]
    greedy = SamplingParams(temperature=0.0, max_tokens=ANSWER, ignore_eos=True)
    ids = [found for found, _ in run(engine, [window[:PROMPT] for window in windows], greedy)]
    perplexity = math.exp(-sum(scores) / len(scores))
    return {
        "weights_mb": round(nbytes / 1e6, 1),
        "tokens": len(scores),
        "perplexity": perplexity,
        "scores": scores,
        "ids": ids,
    }


def against(found: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """Without the raw numbers: perplexity beside that of bf16, and how long greedy answers stay the same."""
    pairs = list(zip(found["ids"], reference["ids"], strict=True))
    same = [next((i for i, (a, b) in enumerate(zip(*pair, strict=True)) if a != b), ANSWER) for pair in pairs]
    moved = [abs(a - b) for a, b in zip(found["scores"], reference["scores"], strict=True)]
    return {
        "weights_mb": found["weights_mb"],
        "tokens": found["tokens"],
        "perplexity": round(found["perplexity"], 4),
        "perplexity_ratio": round(found["perplexity"] / reference["perplexity"], 5),
        "mean_logprob_difference": round(sum(moved) / len(moved), 5),
        "answers_equal": sum(length == ANSWER for length in same),
        "answers": len(same),
        "mean_equal_tokens": round(sum(same) / len(same), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--windows", type=whole, default=24)
    parser.add_argument("--out", type=result_file)
    args = parser.parse_args()
    ensure_built()
    path = model_path(args.model, lambda line: print(line, file=sys.stderr))
    checkpoint = open_checkpoint(path)
    windows = windows_of(Tokenizer.from_checkpoint(checkpoint), args.windows)
    kinds = ["none", "int8", "int4", *(["gguf"] if path.is_file() else [])]
    found = {kind: measure(checkpoint, kind, False, windows) for kind in kinds}
    found |= {f"{kind}, activations int8": measure(checkpoint, kind, True, windows) for kind in kinds[1:]}
    results = {kind: against(each, found["none"]) for kind, each in found.items()}
    for kind, result in results.items():
        print(f"{kind}: {result}")
    record = {
        "benchmark": "quantization",
        "model": path.name,
        "text": f"pydoc_data.topics of Python {sys.version.split()[0]}, {args.windows} windows of {WINDOW} tokens",
        "formats": dict(Counter(info.dtype for info in checkpoint.tensors.values())),
        "answers": f"{ANSWER} greedy tokens after {PROMPT} of each window",
        "about": about(),
        "results": results,
    }
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
