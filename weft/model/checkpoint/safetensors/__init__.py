"""Model directories in the layout of Hugging Face: config.json, safetensors and tokenizer files."""
