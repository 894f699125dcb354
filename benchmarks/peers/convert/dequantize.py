"""A GGUF file as a directory of safetensors in bf16, with its tokenizer: python dequantize.py FILE.gguf DIRECTORY."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**place, dtype=torch.bfloat16)
    words = model.config.to_dict()
    words.pop("quantization_config", None)  # the weights are plain numbers now
    plain = transformers.AutoModelForCausalLM.from_config(type(model.config).from_dict(words), dtype=torch.bfloat16)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(**place).save_pretrained(target)


if __name__ == "__main__":
    main()
