"""GGUF files: the container's header, and its keys and names in the words of Hugging Face."""
