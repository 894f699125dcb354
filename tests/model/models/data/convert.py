"""Makes the GGUF files of this folder with llama.cpp's own converter, and what transformers answers for each.

    pip download --no-deps --no-binary :all: llama-cpp-python    # its sources bring the converter; unpack them
    python -m tests.model.models.data.convert LLAMA_CPP                # vendor/llama.cpp in them

The converter knows vocabularies by the hash of what they make of a text; the small one here is called gpt-2.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.model.models.test_families import randomize_biases
from tests.support.checkpoints import trained_tokenizer

HERE = Path(__file__).parent
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 288, "max_position_embeddings": 128, "initializer_range": 0.3,
    "bos_token_id": 1, "eos_token_id": 0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied-biased": ("llama", {"tie_word_embeddings": True, "attention_bias": True}),
    "llama3": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-yarn": (
        "qwen2",
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0,
                             "original_max_position_embeddings": 32}},
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3-f16": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
}  # fmt: skip
PROMPT = [(7 * i + 3) % 270 + 5 for i in range(24)]


def main(words: list[str]) -> None:
    """Writes NAME.gguf for every case, and answers.json."""
    place = Path(words[0]).resolve()
    sys.path[:0] = [str(place), str(place / "gguf-py")]
    for module in [name for name in sys.modules if name.partition(".")[0] == "gguf"]:
        del sys.modules[module]  # the converter needs the package that comes with it
    answers: dict[str, Any] = {"prompt": PROMPT, "cases": {}}
    for name, (kind, changes) in CASES.items():
        torch.manual_seed(5)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, **{**SIZES, **changes}), dtype=torch.float32
        )
        randomize_biases(model, 3)
        half = name.endswith("f16")
        with torch.no_grad():
            for parameter in model.parameters() if half else ():
                parameter.copy_(parameter.half().float())
        model = model.eval()
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            model.save_pretrained(folder)
            tokenizer = trained_tokenizer(280)
            PreTrainedTokenizerFast(
                tokenizer_object=tokenizer, bos_token="<|start|>", eos_token="<|end|>"
            ).save_pretrained(folder)
            convert(Path(folder), HERE / f"{name}.gguf", "f16" if half else "f32")
            logits = torch.log_softmax(model(torch.tensor([PROMPT])).logits[0].double(), -1)
        digest = hashlib.sha256((HERE / f"{name}.gguf").read_bytes()).hexdigest()
        chosen = [round(logits[i, PROMPT[i + 1]].item(), 6) for i in range(len(PROMPT) - 1)]
        answers["cases"][name] = {
            "sha256": digest,
            "family": kind,
            "logprobs": chosen,
            "next": int(logits[-1].argmax()),
        }
    (HERE / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")


def convert(model: Path, out: Path, kind: str) -> None:
    """Runs the converter in this process."""
    base = import_module("conversion.base")
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    converter = import_module("convert_hf_to_gguf")
    sys.argv = ["convert_hf_to_gguf.py", str(model), "--outtype", kind, "--outfile", str(out)]
    converter.main()


if __name__ == "__main__":
    main(sys.argv[1:])
