"""Makes the GGUF files of this folder with llama.cpp's own converter, and what transformers answers for each.

    pip download --no-deps --no-binary :all: llama-cpp-python    # its sources bring the converter; unpack them
    python -m tests.model.models.data.convert LLAMA_CPP [NAME ...]     # vendor/llama.cpp in them; some files, or all

The converter needs the package sentencepiece. Files with a type in their name are quantized by llama.cpp's own
`llama-quantize` (`benchmarks/peers` builds it), which has to be on the PATH.

The converter knows vocabularies by the hash of what they make of a text; the small one here is called gpt-2.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
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
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}
LATENT: dict[str, Any] = {
    "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 20, "num_key_value_heads": 4,
    "head_dim": 8,
}  # fmt: skip
MSCALE = {
    "rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 32,
    "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 0.7,
}  # fmt: skip
WIDE: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.06, "tie_word_embeddings": True,
}  # fmt: skip
"""Rows of whole blocks of 256, or of none."""
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
    "mixtral": ("mixtral", {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen3moe": ("qwen3_moe", {**EXPERTS, "num_experts": 5, "head_dim": 16, "norm_topk_prob": True}),
    "deepseek-v3": (
        "deepseek_v3",
        {**LATENT, **EXPERTS, "q_lora_rank": 24, "n_routed_experts": 8, "n_group": 4, "topk_group": 2,
         "n_shared_experts": 2, "first_k_dense_replace": 1, "scoring_func": "sigmoid", "rope_parameters": MSCALE},
    ),
    "deepseek-v2-lite": (
        "deepseek_v2",
        {**LATENT, **EXPERTS, "q_lora_rank": None, "n_routed_experts": 4, "n_shared_experts": 1,
         "first_k_dense_replace": 1, "topk_method": "greedy", "n_group": 1, "topk_group": 1,
         "routed_scaling_factor": 1.5},
    ),
    "glm4moe": (
        "glm4_moe",
        {**EXPERTS, "head_dim": 16, "n_routed_experts": 6, "n_shared_experts": 1, "first_k_dense_replace": 1,
         "attention_bias": True, "use_qk_norm": True, "routed_scaling_factor": 1.5, "n_group": 1, "topk_group": 1,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5}},
    ),
    "glm4-moe-lite": (
        "glm4_moe_lite",
        {**LATENT, **EXPERTS, "q_lora_rank": 24, "n_routed_experts": 6, "n_shared_experts": 1,
         "scoring_func": "sigmoid", "routed_scaling_factor": 1.8, "first_k_dense_replace": 1},
    ),
    "smollm3": (
        "smollm3",
        {"pad_token_id": 0, "num_hidden_layers": 4,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}},
    ),
    "phi3": ("phi3", {"pad_token_id": 0, "original_max_position_embeddings": 128}),
    "phi3-longrope": (
        "phi3",
        {"pad_token_id": 0, "original_max_position_embeddings": 64,
         "rope_parameters": {"rope_type": "longrope", "rope_theta": 1000.0, "partial_rotary_factor": 0.75,
                             "original_max_position_embeddings": 64,
                             "short_factor": [1.0, 1.1, 1.3], "long_factor": [1.5, 2.0, 3.0]}},
    ),
    "seed-oss": ("seed_oss", {"head_dim": 16, "attention_out_bias": False, "attention_bias": True}),
    "ernie4-5": ("ernie4_5", {"head_dim": 16}),
    "mistral3": (
        "ministral3",
        {"head_dim": 16, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16,
            "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.2}},
    ),
    "qwen2moe": (
        "qwen2_moe",
        {**EXPERTS, "num_experts": 5, "shared_expert_intermediate_size": 40, "norm_topk_prob": False},
    ),
    "gpt-oss": (
        "gpt_oss",
        {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5,
         "rope_parameters": {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "beta_fast": 16.0,
                             "beta_slow": 2.0, "truncate": False, "original_max_position_embeddings": 32}},
    ),
    "gemma3": (
        "gemma3_text",
        {"num_hidden_layers": 7, "head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 16, "pad_token_id": 0},
    ),
    "minimax-m2": (
        "minimax_m2",
        {"head_dim": 16, "rotary_dim": 8, "num_local_experts": 6, "num_experts_per_tok": 2, "use_qk_norm": True,
         "scoring_func": "sigmoid"},
    ),
    "llama.Q5_K_M": ("llama", {**WIDE, "hidden_size": 896, "num_attention_heads": 14, "head_dim": 16}),
    "qwen3moe.Q4_K_M": (
        "qwen3_moe", {**WIDE, **EXPERTS, "num_experts": 3, "moe_intermediate_size": 256, "head_dim": 32}
    ),
    **{f"qwen2.{name}": ("qwen2", WIDE) for name in ("Q2_K", "Q5_1", "Q6_K", "Q8_0", "IQ3_S", "IQ4_NL", "TQ1_0")},
    "qwen3.Q3_K_M": ("qwen3", {**WIDE, "head_dim": 64}),
    "mistral.IQ4_XS": ("mistral", {**WIDE, "sliding_window": None}),
}  # fmt: skip
PROMPT = [(7 * i + 3) % 270 + 5 for i in range(24)]


def main(words: list[str]) -> None:
    """Writes NAME.gguf for every case, and answers.json."""
    place = Path(words[0]).resolve()
    sys.path[:0] = [str(place), str(place / "gguf-py")]
    for module in [name for name in sys.modules if name.partition(".")[0] == "gguf"]:
        del sys.modules[module]  # the converter needs the package that comes with it
    answers = json.loads((HERE / "answers.json").read_text())
    for name in words[1:] or CASES:
        kind, changes = CASES[name]
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
            quantize = name.rpartition(".")[2] if "." in name else ""
            plain = Path(folder) / "plain.gguf" if quantize else HERE / f"{name}.gguf"
            convert(Path(folder), plain, "f16" if half else "f32")
            if quantize:
                subprocess.run(["llama-quantize", plain, HERE / f"{name}.gguf", quantize], check=True)
                continue
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
    base.ModelBase.no_mtp = True
    base.TextModel._set_vocab_glm = base.TextModel._set_vocab_gpt2
    for module, name in (("phi", "Phi3MiniModel"), ("ernie", "Ernie4_5Model")):
        getattr(import_module(f"conversion.{module}"), name).set_vocab = base.TextModel._set_vocab_gpt2
    converter = import_module("convert_hf_to_gguf")
    sys.argv = ["convert_hf_to_gguf.py", str(model), "--outtype", kind, "--outfile", str(out)]
    converter.main()


if __name__ == "__main__":
    main(sys.argv[1:])
