"""A model of a given form with random weights in bf16 and the tokenizer of another.

python random_weights.py '{"model_type": "llama", ...}' TOKENIZER_DIRECTORY TARGET
"""

from __future__ import annotations

import json
import sys

import torch
import transformers


def main() -> None:
    words, tokenizer, target = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**words)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(target)


if __name__ == "__main__":
    main()
